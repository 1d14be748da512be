"""How noisy samples are at each row of a scheduler's run, and what clean sample a step predicts.

A sample is ``alpha * clean + sigma * noise``, with unit noise. Knows schedulers alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from stepmask.errors import StepMaskError

TABLES = ("DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler")
"""Schedulers that read the level of a timestep from a table."""
SOLVERS = ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler")
"""Schedulers that keep earlier outputs of the model, and their samples within unit variance."""
EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
"""Schedulers that add noise to the clean sample without scaling it."""
FLOWS = ("FlowMatchEulerDiscreteScheduler",)
KNOWN = TABLES + SOLVERS + EULER + FLOWS

HISTORY = ("model_outputs", "timestep_list", "lower_order_nums", "last_sample")
"""What solvers keep from step to step."""


class Level(NamedTuple):
    """Noise level of a sample: it is ``alpha * clean + sigma * noise``."""

    alpha: float
    sigma: float


def check_levels(scheduler: Any) -> None:
    """See that the noise levels of a scheduler are known.

    Raises:
        StepMaskError: They are not.
    """
    if type(scheduler).__name__ not in KNOWN:
        raise StepMaskError(
            f"low resolution in the early steps needs the noise levels of the run, and those of "
            f"{type(scheduler).__name__} are not known here: choose ddim, ddpm, dpm++, euler or flow matching"
        )


def level_at(scheduler: Any, row: int) -> Level:
    """The level of the sample that the denoiser reads at a row of the scheduler's run, 0 first."""
    name = type(scheduler).__name__
    if name in TABLES:
        kept = float(scheduler.alphas_cumprod[int(scheduler.timesteps[row])])
        return Level(kept**0.5, (1 - kept) ** 0.5)
    sigma = scheduler.sigmas[row]
    if name in EULER:
        return Level(1.0, float(sigma))
    if name in FLOWS:
        return Level(1 - float(sigma), float(sigma))
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(sigma)
    return Level(float(alpha), float(sigma))


class Relabelled(NamedTuple):
    """What a row becomes where its noise counts for less: for a picture whose pixels are fewer, and stand for more."""

    before: Level
    """Level of what the model reads at the row."""
    after: Level
    """The level, of the same noise, at which the model reads it."""
    timesteps: float
    """Factor for the timestep that the model is told."""


def relabelled(scheduler: Any, row: int, less: float) -> Relabelled:
    """The row of a run where the ratio of noise to signal is divided by `less`."""
    level = model_level(scheduler, row)
    if _flows(scheduler):
        ratio = level.sigma / (less * level.alpha + level.sigma)
        return Relabelled(level, Level(1 - ratio, ratio), ratio / level.sigma)
    kept = scheduler.alphas_cumprod.double()
    ratios = ((1 - kept) / kept).sqrt()
    nearest = int((ratios - level.sigma / level.alpha / less).abs().argmin())
    after = Level(float(kept[nearest]) ** 0.5, float(1 - kept[nearest]) ** 0.5)
    return Relabelled(level, after, nearest / float(scheduler.timesteps[row]))


def model_level(scheduler: Any, row: int) -> Level:
    """The level of what the denoiser reads at a row, after the scheduler has scaled it."""
    alpha, sigma = level_at(scheduler, row)
    scale = (alpha**2 + sigma**2) ** 0.5 if type(scheduler).__name__ in EULER else 1.0
    return Level(alpha / scale, sigma / scale)


def _flows(scheduler: Any) -> bool:
    return type(scheduler).__name__ in FLOWS or bool(getattr(scheduler.config, "use_flow_sigmas", False))


def clean_and_noise(scheduler: Any, level: Level, output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """The clean sample and the noise that the model predicts at a step.

    Args:
        scheduler: Says what the model predicts, and how clean samples are clipped.
        level: That of the sample.
        output: Of the model.
        sample: At this level; as the model reads it, or as the scheduler's step gets it.
    """
    kind, (alpha, sigma) = _predicts(scheduler), level
    if kind == "flow":
        clean = (sample - sigma * output) / (alpha + sigma)
    elif kind == "sample":
        clean = output
    elif kind == "v_prediction":
        length = alpha**2 + sigma**2
        clean = (alpha * sample / length**0.5 - sigma * output) / length**0.5
    else:
        clean = (sample - sigma * output) / alpha
    if getattr(scheduler.config, "thresholding", False):
        clean = scheduler._threshold_sample(clean)
    elif getattr(scheduler.config, "clip_sample", False):
        clean = clean.clamp(-scheduler.config.clip_sample_range, scheduler.config.clip_sample_range)
    return clean, (sample - alpha * clean) / sigma


def as_output(scheduler: Any, level: Level, clean: Tensor, noise: Tensor) -> Tensor:
    """The inverse: what a model would have to say, whose samples have unit variance or flow."""
    kind, (alpha, sigma) = _predicts(scheduler), level
    if kind == "flow":
        return noise - clean
    if kind == "sample":
        return clean
    return alpha * noise - sigma * clean if kind == "v_prediction" else noise


def _predicts(scheduler: Any) -> str:
    if _flows(scheduler):
        return "flow"
    kind = getattr(scheduler.config, "prediction_type", "epsilon")
    if kind not in ("epsilon", "sample", "v_prediction"):
        raise StepMaskError(f"the scheduler says that the model predicts {kind!r}, from which no clean sample is known")
    return kind


@contextlib.contextmanager
def unclipped(scheduler: Any) -> Iterator[None]:
    """Let a scheduler clip no clean samples for a while."""
    names = ("clip_sample", "thresholding")
    before = {name: scheduler.config[name] for name in names if scheduler.config.get(name)}
    if not before:
        yield
        return
    scheduler.register_to_config(**dict.fromkeys(before, False))
    try:
        yield
    finally:
        scheduler.register_to_config(**before)


def forget_history(scheduler: Any) -> None:
    """Let a solver begin anew at the next step: what it keeps of the steps before is of another resolution."""
    for name in HISTORY:
        kept = getattr(scheduler, name, None)
        if isinstance(kept, list):
            setattr(scheduler, name, [None] * len(kept))
        elif kept is not None:
            setattr(scheduler, name, 0 if isinstance(kept, int) else None)
