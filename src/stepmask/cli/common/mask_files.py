"""Masks from files, folders and the hub: the one that ``--mask`` and ``--at`` mean, or all of ``--start``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepmask import presets
from stepmask.cli.common.app import stdout
from stepmask.errors import MaskFileError
from stepmask.family import MaskFamily
from stepmask.frontier import Frontier
from stepmask.mask import StepMask
from stepmask.recipe import Recipe
from stepmask.sources import load, load_one


def load_mask(path: Path, at: float | None) -> StepMask:
    """Read a mask, or pick from a family the best that costs at most `at`; from a file, a folder or the hub.

    Raises:
        StepMaskError: There is neither; a family comes without `at`, or a mask with it; or no mask is so cheap.
    """
    return _mask_of(load_one(path, at=at), path)


def load_masks(paths: list[Path]) -> list[StepMask]:
    """All masks of files that hold one each, or a family.

    Raises:
        StepMaskError: A file is neither.
    """
    found: list[StepMask] = []
    for path in paths:
        one = load(path)
        found += [member.mask for member in one] if isinstance(one, MaskFamily) else [_mask_of(one, path)]
    return found


def write_schedule(
    mask: StepMask, model: str, pipe: Any, output: Path, call_kwargs: Mapping[str, Any] | None = None
) -> None:
    """Save a mask that was made for `model` without learning, and say its size and cost on the pipeline.

    The mask of a preset is made to fit every scheduler.
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


def _mask_of(found: StepMask | Recipe | Frontier, path: Path) -> StepMask:
    if not isinstance(found, StepMask):
        raise MaskFileError(
            f"{path} holds a {found.kind}, not a mask: stepmask.load reads it, and a recipe's .mask is its mask"
        )
    return found
