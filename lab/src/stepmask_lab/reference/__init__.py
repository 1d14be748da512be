"""The reference models that come with the package: small, ordinary diffusers pipelines.

``load("ddpm-cifar10")`` is a DDIMPipeline, ``load("dit-cifar10")`` a DiTPipeline. ``load("ldm-cifar10")`` is a
`class_conditional_ldm.ClassConditionalLDMPipeline`, as diffusers has none. ``load("pixart-cifar10")`` is a
`text_to_image.SmallPixArtPipeline`, a PixArtSigmaPipeline with other defaults; it reads prompts and needs transformers.
``load("pixart-emoji")`` is one too, and draws emoji of 64 pixels.
How they were trained is recorded in ``training.json`` beside the weights; `train` is the script.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepmask.errors import StepMaskError
from stepmask.plugins import saved_pipeline_class

if TYPE_CHECKING:
    from stepmask_lab.reference.classifier import Classifier

PREFIX = "reference:"
_WEIGHTS = Path(__file__).parent / "weights"
OF_TABLES = ("ddpm-cifar10", "dit-cifar10", "ldm-cifar10", "pixart-cifar10")
"""The models that benchmarks measure by default: one for each of the papers' tables."""
OWN_PIPELINES = {
    "ClassConditionalLDMPipeline": "stepmask_lab.reference.class_conditional_ldm",
    "SmallPixArtPipeline": "stepmask_lab.reference.text_to_image",
    "EmojiPipeline": "stepmask_lab.reference.text_to_image",
}
"""Modules of the pipelines that diffusers does not know, by class name."""


def names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _WEIGHTS.glob("*/model_index.json"))


def folder(name: str) -> Path:
    """Folder of a reference model, in diffusers format.

    Raises:
        StepMaskError: There is no such model.
    """
    check(name)
    return _WEIGHTS / name


def check(name: str) -> None:
    """See that there is such a reference model.

    Raises:
        StepMaskError: There is none.
    """
    if name not in names():
        raise StepMaskError(f"no reference model {name!r}; there are {', '.join(names())}")


def load(name: str, dtype: Any = None) -> Any:
    """A reference model as a diffusers pipeline on the CPU, float32 unless `dtype` says otherwise.

    Raises:
        StepMaskError: There is no such model, or it reads text and transformers is not installed.
    """
    return load_from(folder(name), f"reference model {name!r}", dtype)


def load_from(path: Path, label: str, dtype: Any = None) -> Any:
    """As `load` from any folder, for a model that is still trained; `label` names it in errors.

    Raises:
        StepMaskError: The folder has no pipeline, or it reads text and transformers is not installed.
    """
    import torch

    if not (path / "model_index.json").exists():
        raise StepMaskError(f"no {label}: {path} has no model_index.json, which every diffusers pipeline has")
    pipeline = saved_pipeline_class(path, label)
    with _quiet():
        pipe = pipeline.from_pretrained(path, local_files_only=True)
        pipe = pipe.to(dtype or torch.float32)  # transformers loads what was saved, diffusers float32
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(memory_format=torch.channels_last)  # what convolutions are quickest in
    return pipe


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars, and warnings such as those about JSON's string keys in id2label."""
    loggings = [importlib.import_module("diffusers.utils.logging")]
    if "transformers" in sys.modules:
        loggings.append(importlib.import_module("transformers.utils.logging"))
    before = [(logging, logging.is_progress_bar_enabled(), logging.get_verbosity()) for logging in loggings]
    for logging in loggings:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, shown, verbosity in before:
            logging.set_verbosity(verbosity)
            if shown:
                logging.enable_progress_bar()


def load_classifier() -> Classifier:
    """The CIFAR-10 classifier whose features `stepmask.evaluation.score_images` can score images on."""
    from stepmask_lab.reference import classifier

    return classifier.load_classifier()


def training_record(name: str) -> dict[str, Any]:
    """How a reference model was trained: images seen, hours, machine, loss curve."""
    return json.loads((folder(name) / "training.json").read_text())
