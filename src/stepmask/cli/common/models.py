"""From what the user typed to a pipeline that is ready to sample: loading, device, scheduler."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from pathlib import Path
from typing import Any

from rich.text import Text

from stepmask import plugins, presets
from stepmask.cli.common.app import stderr
from stepmask.cli.common.arguments import DType, Scheduler
from stepmask.errors import StepMaskError
from stepmask.files import is_file, is_folder
from stepmask.learning.processes import current
from stepmask.mask import StepMask, scheduler_identity
from stepmask.recipe import Recipe
from stepmask.runtime.schedulers import make_scheduler, scheduler_of

CLASSES = {
    Scheduler.ddim: "DDIMScheduler",
    Scheduler.ddpm: "DDPMScheduler",
    Scheduler.dpm: "DPMSolverMultistepScheduler",
    Scheduler.heun: "HeunDiscreteScheduler",
    Scheduler.euler: "EulerDiscreteScheduler",
    Scheduler.pndm: "PNDMScheduler",
}
DDPM_PIPELINE_RUNS = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler")
"""Schedulers that DDPMPipeline calls rightly; the others go without a pipeline."""


def load(
    model: str,
    *,
    scheduler: Scheduler = Scheduler.keep,
    mask: StepMask | Recipe | None = None,
    device: str | None = None,
    dtype: DType | None = None,
) -> Any:
    """A pipeline, or a bare sampling loop where a pipeline cannot run the scheduler: `scheduler`, or that of `mask`.

    Raises:
        StepMaskError: The model cannot be loaded, or not run with this scheduler.
    """
    console = stderr()
    with (
        console.status(Text(f"loading {model}"))
        if console.is_terminal and current().is_first
        else contextlib.nullcontext()
    ):
        pipe = _to(_load(model, dtype), device)
    if mask is not None:
        return _with_scheduler_of(pipe, mask)
    if scheduler == Scheduler.keep:
        return pipe
    return with_scheduler(pipe, make_scheduler(CLASSES[scheduler], dict(pipe.scheduler.config)))


def load_or_preset(model: str, scheduler: Scheduler) -> Any:
    """A pipeline on the CPU; of ``preset:NAME`` a denoiser without weights, with a scheduler that says the timesteps.

    Raises:
        StepMaskError: The model cannot be loaded, or not run with this scheduler.
    """
    if not model.startswith(presets.PREFIX):
        return load(model, scheduler=scheduler, device="cpu")
    import diffusers

    from stepmask.inspection.sampler_loop import SamplerLoop

    denoiser = presets.load(model.removeprefix(presets.PREFIX))
    return SamplerLoop(denoiser, getattr(diffusers, CLASSES.get(scheduler, "DDIMScheduler"))())


def _load(model: str, dtype: DType | None) -> Any:
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    from stepmask.plugins import saved_pipeline_class

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with contextlib.suppress(ImportError):  # of text encoders; not all pipelines have one
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    precision = None if dtype is None else getattr(torch, dtype.value)
    if model.startswith(presets.PREFIX):
        hub = presets.get(model.removeprefix(presets.PREFIX)).hub
        instead = f"give {' or '.join(hub)}" if hub else "give a model with weights"
        raise StepMaskError(f"{model} has no weights and makes no images, only describe and import take it: {instead}")
    prefix, colon, name = model.partition(":")
    sources = plugins.model_sources() if colon else {}
    if prefix in sources:
        return sources[prefix].load(name, precision)
    if prefix == "reference" and colon:
        raise StepMaskError(
            f"{model} comes with the laboratory, which is not installed: pip install ./lab in a clone of the repository"
        )
    own = is_folder(model)
    if own and not is_file(Path(model) / "model_index.json"):
        raise StepMaskError(
            f"folder {model} has no model_index.json that can be read: give a folder that pipe.save_pretrained wrote"
        )
    try:
        pipeline = saved_pipeline_class(Path(model), model) if own else DiffusionPipeline
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*`torch_dtype` is deprecated")  # older diffusers know no other
            if precision is not None:
                return pipeline.from_pretrained(model, torch_dtype=precision)
            return _in_one_precision(pipeline.from_pretrained(model))
    except (OSError, ValueError, ImportError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if not own and "local_files_only" in str(error):  # what the hub's library says to programmers
            raise StepMaskError(
                f"there is no such folder here as {model}, and the hub has no such model, or could not be asked for it"
            ) from error
        where = "" if own else " (no such folder here; taken for a model on the hub)"
        raise StepMaskError(f"cannot load {model}{where}: {reason}") from error


def _in_one_precision(pipe: Any) -> Any:
    """The pipeline with text encoders in the precision of its denoiser.

    Where none is asked for, diffusers loads float32 and transformers what was saved.
    """
    from torch import nn

    from stepmask.inspection.placement import dtype_of
    from stepmask.inspection.registry import denoiser_of

    wanted = dtype_of(denoiser_of(pipe))
    for part in pipe.components.values():
        of_transformers = isinstance(part, nn.Module) and hasattr(type(part), "get_input_embeddings")
        if of_transformers and not getattr(part, "is_quantized", False):
            part.to(wanted)
    return pipe


def _to(pipe: Any, device: str | None) -> Any:
    device = device or _accelerator()
    if current().count > 1 and device == _accelerator() != "cpu":
        device = f"{device}:{_own_accelerator()}"
    try:
        return pipe.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise StepMaskError(f"cannot use device {device!r}: {reason}") from error


def _accelerator() -> str:
    """The kind of accelerator that is there and wanted, else ``cpu``."""
    import torch

    cpu_alone = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")  # accelerate launch --cpu
    there = torch.accelerator.is_available() and not cpu_alone
    return torch.accelerator.current_accelerator().type if there else "cpu"


def _own_accelerator() -> int:
    """The number of this process's accelerator on its machine, where several processes learn together.

    Raises:
        StepMaskError: There are fewer than processes.
    """
    import torch

    number, there = int(os.environ.get("LOCAL_RANK", current().number)), torch.accelerator.device_count()
    if number >= there:
        raise StepMaskError(
            f"process {number} has no accelerator of its own among the {there} of this machine: start no more "
            "processes than that, or say with --device where all of them run"
        )
    return number


def with_scheduler(pipe: Any, scheduler: Any) -> Any:
    """The pipeline with another scheduler, or what takes its place.

    DDIMPipeline converts every scheduler to DDIM and breaks when another is swapped in; DDPMPipeline runs those that
    need no scaling of the noise. Where neither works, the plain loop over the denoiser does.

    Raises:
        StepMaskError: The pipeline would silently make wrong images.
    """
    from diffusers import DDPMPipeline

    from stepmask.inspection.sampler_loop import SamplerLoop

    pipeline, name = type(pipe).__name__, type(scheduler).__name__
    if pipeline in ("DDIMPipeline", "DDPMPipeline") and name not in DDPM_PIPELINE_RUNS:
        return SamplerLoop(pipe.unet, scheduler)
    if pipeline == "DDIMPipeline" and name != "DDIMScheduler":
        return DDPMPipeline(pipe.unet, scheduler)
    if pipeline == "DiTPipeline":
        trial = copy.deepcopy(scheduler)
        trial.set_timesteps(10)
        if abs(float(getattr(trial, "init_noise_sigma", 1.0)) - 1) > 1e-3:
            raise StepMaskError(
                f"DiTPipeline never scales its noise as {name} needs it, so its images would be wrong: "
                "choose ddim, ddpm, dpm++ or pndm"
            )
    pipe.scheduler = scheduler
    return pipe


def _with_scheduler_of(pipe: Any, mask: StepMask | Recipe) -> Any:
    if mask.scheduler is None or mask.scheduler == scheduler_identity(pipe.scheduler):
        return pipe
    return with_scheduler(pipe, scheduler_of(mask))
