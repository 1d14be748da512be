"""What a folder that ``save_pretrained`` wrote says of its pipeline, before anything is loaded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from stepmask import plugins
from stepmask.errors import StepMaskError


def saved_pipeline_class(path: Path, label: str) -> Any:
    """The class of a saved pipeline: a plugin's, or diffusers' own to find out.

    `label` is what errors call it.

    Raises:
        StepMaskError: It reads text and transformers is not installed, in whose place diffusers would put dummies.
    """
    index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    libraries = {part[0] for part in index.values() if isinstance(part, list) and part}
    if "transformers" in libraries and importlib.util.find_spec("transformers") is None:
        raise StepMaskError(f"{label} reads text and needs transformers: pip install 'stepmask[text]'")
    known = plugins.pipeline_class(index.get("_class_name", ""))
    if known is not None:
        return known
    from diffusers import DiffusionPipeline

    return DiffusionPipeline
