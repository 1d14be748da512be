"""Finds ComfyUI, and makes the nodes a package, as ComfyUI does with what lies in its folder of custom nodes."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import diffusers  # noqa: F401  both ask what there is, and are not to find what stands in below
import pytest
import torch
import transformers  # noqa: F401

HERE = Path(__file__).parent
NODES = HERE.parent / "comfyui"
COMFYUI = Path(os.environ.get("COMFYUI", "ComfyUI")).resolve()

if not (COMFYUI / "comfy").is_dir():
    pytest.exit(f"no ComfyUI at {COMFYUI}: make test-comfyui brings one, or set COMFYUI to the folder of yours", 2)
sys.path[:0] = [str(HERE), str(COMFYUI)]

try:
    import torchvision  # noqa: F401
except RuntimeError:  # built for another torch than this one; declared, its operators let it be imported without them
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

try:
    import torchaudio  # noqa: F401
except (ImportError, OSError):  # as above; ComfyUI imports it for models that make sounds
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
        sys.modules[name] = ModuleType(name)
    sys.modules["torchaudio"].functional = sys.modules["torchaudio.functional"]
    sys.modules["torchaudio"].transforms = sys.modules["torchaudio.transforms"]

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True

spec = importlib.util.spec_from_file_location("stepmask_comfyui", NODES / "__init__.py")
module = sys.modules["stepmask_comfyui"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
