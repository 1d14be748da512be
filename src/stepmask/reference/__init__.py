"""The reference models that come with the package: small, trained on CIFAR-10, ordinary diffusers pipelines.

``load("ddpm-cifar10")`` is a DDIMPipeline, ``load("dit-cifar10")`` a DiTPipeline. How they were trained is recorded in
``training.json`` beside the weights; `train` is the script.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepmask.errors import StepMaskError

PREFIX = "reference:"
_WEIGHTS = Path(__file__).parent / "weights"


def names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _WEIGHTS.glob("*/model_index.json"))


def folder(name: str) -> Path:
    """Folder of a reference model, in diffusers format.

    Raises:
        StepMaskError: There is no such model.
    """
    if name not in names():
        raise StepMaskError(f"no reference model {name!r}; there are {', '.join(names())}")
    return _WEIGHTS / name


def load(name: str, dtype: Any = None) -> Any:
    """A reference model as a diffusers pipeline on the CPU, float32 unless `dtype` says otherwise."""
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    path = folder(name)
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it finds fault with JSON's string keys in id2label
    try:
        pipe = DiffusionPipeline.from_pretrained(path, local_files_only=True)
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    return pipe if dtype is None else pipe.to(dtype)


def training_record(name: str) -> dict[str, Any]:
    """How a reference model was trained: images seen, hours, machine, loss curve."""
    return json.loads((folder(name) / "training.json").read_text())
