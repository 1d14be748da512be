"""Masks and recipes from files and the hub: the one that ``--mask`` and ``--at`` mean, or all of ``--start``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepmask import presets, recipe_file
from stepmask.cli.common.app import stdout
from stepmask.errors import MaskFileError, StepMaskError
from stepmask.family import MaskFamily
from stepmask.files import read_json
from stepmask.mask import StepMask
from stepmask.recipe import Recipe

HUB = "hub:"
"""How the name of a repository on the Hugging Face hub begins: hub:user/name."""


def load_mask_or_recipe(path: Path, at: float | None) -> StepMask | Recipe:
    """Read a recipe where a file, or a repository of the hub, has one; else what `load_mask` reads.

    Raises:
        StepMaskError: As `load_mask` does.
    """
    if path.as_posix().startswith(HUB):
        try:
            return load_mask(path, at)
        except MaskFileError:
            if at is not None:
                raise
            with contextlib.suppress(MaskFileError):
                return Recipe.from_pretrained(path.as_posix().removeprefix(HUB))
            raise
    if _format_of(path) != recipe_file.FORMAT:
        return load_mask(path, at)
    if at is not None:
        raise StepMaskError(f"--at picks a mask from a family, and {path} holds a recipe: leave --at out")
    return Recipe.load(path)


def load_mask(path: Path, at: float | None) -> StepMask:
    """Read a mask, or pick from a family the best that costs at most `at`; from a file, or from the hub.

    Raises:
        StepMaskError: The file is neither; a family comes without `at`, or a mask with it; or no mask is so cheap.
    """
    if path.as_posix().startswith(HUB):
        repo_id = path.as_posix().removeprefix(HUB)
        return StepMask.from_pretrained(repo_id) if at is None else MaskFamily.from_pretrained(repo_id).at(at)
    if not _is_family(path):
        mask = StepMask.load(path)
        if at is not None:
            raise StepMaskError(f"--at picks a mask from a family, and {path} holds a single mask: leave --at out")
        return mask
    family = MaskFamily.load(path)
    if at is None:
        # rounded up: what is listed can be given
        there = ", ".join(f"{math.ceil(1000 * m.macs) / 1000:.3f} ({m.psnr:.1f} dB)" for m in family)
        raise StepMaskError(f"{path} holds a family of {len(family)} masks: pick one with --at SHARE; it has {there}")
    return family.at(at)


def load_family_or_mask(path: Path, at: float | None) -> MaskFamily | StepMask:
    """Read a whole family where a file has one and nothing is picked from it; else what `load_mask` reads.

    Raises:
        StepMaskError: As `load_mask` does.
    """
    return MaskFamily.load(path) if at is None and _is_family(path) else load_mask(path, at)


def load_masks(paths: list[Path]) -> list[StepMask]:
    """All masks of files that hold one each, or a family.

    Raises:
        StepMaskError: A file is neither.
    """
    found: list[StepMask] = []
    for path in paths:
        found += [one.mask for one in MaskFamily.load(path)] if _is_family(path) else [load_mask(path, None)]
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


def _is_family(path: Path) -> bool:
    return _format_of(path) == "stepmask-family"


def _format_of(path: Path) -> Any:
    try:
        content = read_json(path, "mask")
    except MaskFileError:
        return None  # reading it as a mask says what is wrong
    return content.get("format") if isinstance(content, dict) else None
