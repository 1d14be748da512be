"""load: what lies in a file, a folder or a repository, by what it says: a mask, a family, a recipe or a frontier."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stepmask import family, frontier, recipe_file
from stepmask.errors import MaskFileError, StepMaskError
from stepmask.family import MaskFamily
from stepmask.files import is_file, is_folder, read_json
from stepmask.frontier import Frontier
from stepmask.hub import HUB, find, is_repo_id
from stepmask.mask import StepMask
from stepmask.recipe import Recipe

CLASSES = {family.FORMAT: MaskFamily, recipe_file.FORMAT: Recipe, frontier.FORMAT: Frontier}
"""What a file holds, by the format that it says; all others are read as masks, which say what is wrong."""
NAMES = (StepMask.hub_file, Recipe.hub_file, MaskFamily.hub_file, Frontier.hub_file)
"""Files of folders and repositories, in the order in which they are looked for."""
OF_SEVERAL = (MaskFamily.hub_file, Frontier.hub_file)
"""Those from which one is picked."""


def load(
    source: str | Path, *, at: float | None = None, revision: str | None = None, token: Any = None
) -> StepMask | MaskFamily | Recipe | Frontier:
    """Read a mask, a family of masks, a recipe or a frontier of recipes.

    Args:
        source: A file; a folder; or a repository, ``user/name``, which is looked for in the folder that
            ``STEPMASK_REGISTRY`` names, and then on the Hugging Face hub. ``hub:user/name`` is never a folder here.
            Of a folder or a repository ``mask.json`` is read, else ``recipe.json``, ``family.json``, ``frontier.json``.
        at: Pick the best mask of a family that costs at most this share of the full run's MACs, or the best recipe of a
            frontier that takes at most so many evaluations. Then ``family.json`` and ``frontier.json`` come first.
        revision: Branch, tag or commit of a repository on the hub.
        token: For private repositories; by default that of ``hf auth login``.

    Raises:
        MaskFileError: There is nothing of that name, or it is something else.
        StepMaskError: `at` is given, and there is no family and no frontier.
        TargetError: Nothing in it is so cheap.
    """
    path = Path(source)
    if not is_file(source) and (is_folder(source) or _may_be_repository(source)):
        names = NAMES if at is None else sorted(NAMES, key=lambda name: name not in OF_SEVERAL)
        path = find(source, names, revision=revision, token=token)
    found = CLASSES.get(_format_of(path), StepMask).load(path)
    return found if at is None else picked(found, at, source)


def load_one(source: str | Path, *, at: float | None = None) -> StepMask | Recipe:
    """`load` for those who run what they find: a mask or a recipe.

    Raises:
        StepMaskError: As `load` raises it; or there is a family or a frontier, and `at` picks nothing from it.
    """
    found = load(source, at=at)
    return picked(found, at, source) if isinstance(found, MaskFamily | Frontier) else found


def picked(found: Any, at: float | None, source: Any = "what was given") -> StepMask | Recipe:
    """The mask of a family that costs at most a share of the full run's MACs, or the recipe of a frontier for a budget.

    Raises:
        StepMaskError: It is neither, or nothing is asked for; says what there is to pick.
        TargetError: Nothing in it is so cheap.
    """
    if not isinstance(found, MaskFamily | Frontier):
        what = "a single mask" if isinstance(found, StepMask) else f"a {getattr(found, 'kind', type(found).__name__)}"
        raise StepMaskError(
            f"--at picks a mask from a family, or a recipe from a frontier, and {source} holds {what}: leave --at out "
            "(in Python at=)"
        )
    if at is not None:
        return found.at(at)
    if isinstance(found, MaskFamily):
        # rounded up: what is listed can be given
        there = ", ".join(f"{math.ceil(1000 * m.macs) / 1000:.3f} ({m.psnr:.1f} dB)" for m in found)
        raise StepMaskError(
            f"{source} holds a family of {len(found)} masks: pick one by its share of the MACs, with --at SHARE "
            f"(at=SHARE in Python); it has {there}"
        )
    budgets = [budget for budget in found.budgets if budget >= found.least_work]
    there = ", ".join(f"{budget:g} ({found.best(budget).psnr:.1f} dB)" for budget in budgets)
    raise StepMaskError(
        f"{source} holds a frontier of {len(found.points)} recipes: pick one by how many {found.unit} it may take, "
        f"with --at NUMBER (at=NUMBER in Python); it has {there}"
    )


def _may_be_repository(source: str | Path) -> bool:
    name = source.as_posix() if isinstance(source, Path) else str(source)
    return not name or name.startswith(HUB) or is_repo_id(name)


def _format_of(path: Path) -> Any:
    try:
        content = read_json(path, StepMask.kind)
    except MaskFileError:
        return None
    return content.get("format") if isinstance(content, dict) else None
