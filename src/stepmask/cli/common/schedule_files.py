"""What verbs share that make a mask without learning: a model, perhaps without weights, and the mask file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepmask import presets
from stepmask.cli.common.app import stdout
from stepmask.cli.common.arguments import Scheduler
from stepmask.cli.common.models import CLASSES, load
from stepmask.mask import StepMask


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


def write_schedule(
    mask: StepMask, model: str, pipe: Any, output: Path, call_kwargs: Mapping[str, Any] | None = None
) -> None:
    """Save a mask and say its size and cost; the mask of a preset fits every scheduler.

    Args:
        mask: The mask.
        model: As the user named it.
        pipe: What was loaded by that name.
        output: The file to write.
        call_kwargs: What the pipeline will be called with.
    """
    import stepmask

    if model.startswith(presets.PREFIX):
        mask = replace(mask, scheduler=None)
    mask.save(output)
    out = stdout()
    forecasts = 0 if mask.forecast is None else int(mask.forecast.sum())
    holds = int((~mask.compute).sum()) - forecasts
    rest = f"{holds} of {mask.compute.size} cells hold" + (f", {forecasts} are forecast" if forecasts else "")
    out.print(f"{output}: {mask.num_rows} steps x {len(mask.sites)} sites, {rest}", soft_wrap=True)
    cost = stepmask.measure_cost(pipe, call_kwargs=call_kwargs)
    fraction = cost.fraction(stepmask.make_plan(mask, stepmask.describe(pipe, call_kwargs=call_kwargs)))
    out.print(f"{fraction:.1%} of the full run's MACs after elimination")
