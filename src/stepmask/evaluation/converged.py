"""The converged run: so many steps from the same noise that more of them change nothing.

Runs of few steps are compared with it, whatever their number of steps and however they spend their work; a run of as
many steps in full has an error of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepmask.cost import BATCH_SIZE
from stepmask.errors import StepMaskError
from stepmask.evaluation.fidelity import psnr_per_image
from stepmask.evaluation.sampler import Progress, Sampler

FIRST = 50
"""Steps of the first run; each further one has twice as many."""
ENOUGH = 45.0
"""dB. Where a run differs from that of half as many steps by no more, it is the converged one."""
FEW = 4
"""Images that tell how many steps are enough."""


@dataclass(frozen=True)
class Converged:
    """The images of a converged run.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        num_inference_steps: Its number of steps.
        changes: By number of steps, the mean PSNR in dB to the run of half as many: how little doubling changed.
    """

    images: Tensor
    num_inference_steps: int
    changes: Mapping[int, float]

    def __str__(self) -> str:
        """How it was found, in words."""
        said = ", ".join(f"{steps} steps differ from {steps // 2} by {db:.1f} dB" for steps, db in self.changes.items())
        return f"converged at {self.num_inference_steps} steps: {said}"


def converged_run(
    sampler: Sampler,
    seeds: Sequence[int],
    batch_size: int = BATCH_SIZE,
    *,
    enough: float = ENOUGH,
    progress: Progress | None = None,
) -> Converged:
    """Double the number of steps until more change nothing, on a few images; then make all images so.

    Args:
        sampler: Runs the pipeline, with its own scheduler.
        seeds: One per image.
        batch_size: The number of images per call.
        enough: dB, how little doubling has to change.
        progress: Called after every run with the number of runs done and to do.

    Raises:
        StepMaskError: The scheduler draws noise on the way, so that no number of steps is enough, or more steps than
            it was trained on would be.
    """
    check_deterministic(sampler.task.pipe.scheduler, sampler.task.call_kwargs)
    few = list(seeds[:FEW])
    trained = getattr(sampler.task.pipe.scheduler.config, "num_train_timesteps", None) or 1000
    steps, changes = FIRST, {}
    images, _ = sampler.full(0, few, steps)
    while 2 * steps <= trained:
        before, steps = images, 2 * steps
        images, _ = sampler.full(0, few, steps)
        changes[steps] = float(psnr_per_image(images, before).mean())
        if changes[steps] >= enough:
            break
    else:
        raise StepMaskError(
            f"the run of {type(sampler.task.pipe.scheduler).__name__} has not converged after {steps} steps, which "
            f"differ from {steps // 2} by {changes.get(steps, 0.0):.1f} dB: ask for less than {enough:g} dB, or choose "
            "a solver of higher order (dpm++)"
        )
    starts = range(0, len(seeds), batch_size)
    made = []
    for done, start in enumerate(starts, start=1):
        made.append(sampler.full(start, seeds[start : start + batch_size], steps)[0])
        if progress is not None:
            progress(done, len(starts))
    return Converged(torch.cat(made), steps, changes)


def check_deterministic(scheduler: Any, call_kwargs: Mapping[str, Any]) -> None:
    """Raise where runs draw noise on the way, so that they have no limit."""
    name, config = type(scheduler).__name__, scheduler.config
    draws = "DDPM" in name or "Ancestral" in name or "SDE" in name or name in ("LCMScheduler", "TCDScheduler")
    if draws or "sde" in str(config.get("algorithm_type")) or (call_kwargs.get("eta") or 0) > 0:
        raise StepMaskError(
            f"{name} draws noise at every step, so that its runs do not converge to any one image: choose ddim, dpm++ "
            "or euler for comparisons with the converged run"
        )


def converged(
    pipe: Any,
    seeds: int | Sequence[int] = 16,
    *,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
    scheduler: Any | None = None,
    enough: float = ENOUGH,
    progress: Progress | None = None,
) -> Converged:
    """Sample with so many steps that more of them change nothing.

    The arguments are those of `stepmask.evaluate`; `enough` is in dB, how little doubling the number of steps has to
    change.

    Returns:
        The images, the number of steps, and what doubling changed on the way.

    Raises:
        StepMaskError: The scheduler draws noise on the way, or is not accurate enough at as many steps as there are.
    """
    from stepmask.evaluation import sampler_for
    from stepmask.inspection.overrides import unchecked
    from stepmask.inspection.sampler_loop import as_pipeline
    from stepmask.recipe import Recipe

    pipe = as_pipeline(pipe, scheduler)
    plain = Recipe(num_inference_steps=FIRST)
    sampler, seeds = sampler_for(pipe, plain, seeds, call_kwargs=call_kwargs, conditions=conditions)
    with unchecked(pipe):
        return converged_run(sampler, seeds, batch_size, enough=enough, progress=progress)
