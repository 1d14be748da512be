"""stepmask: pretrained diffusion models sample faster, with their weights untouched.

    describe -> learn or schedule -> StepMask -> save / load / check -> plan (liveness) -> apply -> sample -> evaluate

Importing this package is quick: torch and diffusers are imported when something needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepmask import errors
from stepmask.cost import CostTable
from stepmask.errors import (
    MaskFileError,
    MaskMismatchError,
    PositionError,
    StepMaskError,
    TargetError,
    UnknownArchitectureError,
    UnsupportedModelError,
)
from stepmask.family import MaskFamily
from stepmask.frontier import Frontier
from stepmask.graph import BlockGraph, Site
from stepmask.liveness import Plan, State, make_plan
from stepmask.mask import Action, StepMask
from stepmask.recipe import Recipe, Resolution
from stepmask.sources import load

if TYPE_CHECKING:
    from stepmask import learning, presets, schedules
    from stepmask.evaluation import converged, evaluate
    from stepmask.inspection.describe import describe, register_sites
    from stepmask.inspection.measure_cost import measure_cost
    from stepmask.learning import fit_gains, learn, learn_family
    from stepmask.optimisation.entry import optimise
    from stepmask.runtime.apply import apply, remove
    from stepmask.runtime.schedulers import scheduler_of

__version__ = "0.1.0"

_IMPORTED_LATER = {
    "converged": "evaluation",
    "evaluate": "evaluation",
    "describe": "inspection.describe",
    "register_sites": "inspection.describe",
    "measure_cost": "inspection.measure_cost",
    "fit_gains": "learning",
    "learn": "learning",
    "learn_family": "learning",
    "optimise": "optimisation.entry",
    "apply": "runtime.apply",
    "remove": "runtime.apply",
    "scheduler_of": "runtime.schedulers",
}
"""Where names are whose modules import torch."""

__all__ = [
    "Action", "BlockGraph", "CostTable", "Frontier", "MaskFamily", "MaskFileError", "MaskMismatchError", "Plan",
    "PositionError", "Recipe", "Resolution", "Site", "State", "StepMask", "StepMaskError", "TargetError",
    "UnknownArchitectureError", "UnsupportedModelError",
    "apply", "converged", "describe", "errors", "evaluate", "fit_gains", "learn", "learn_family", "learning",
    "load", "make_plan", "measure_cost", "optimise", "presets", "register_sites", "remove", "scheduler_of", "schedules",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("learning", "presets", "schedules"):
        return importlib.import_module(f"stepmask.{name}")
    if name in _IMPORTED_LATER:
        return getattr(importlib.import_module(f"stepmask.{_IMPORTED_LATER[name]}"), name)
    raise AttributeError(f"module 'stepmask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
