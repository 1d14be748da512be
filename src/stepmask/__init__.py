"""stepmask: pretrained diffusion models sample faster, with their weights untouched.

    describe -> learn or schedule -> StepMask -> save / load / check -> plan (liveness) -> apply -> sample -> evaluate

Importing this package is quick: torch and diffusers are imported when something needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "StepMask": "mask",
    "BlockGraph": "graph",
    "Site": "graph",
    "CostTable": "cost",
    "Plan": "liveness",
    "State": "liveness",
    "make_plan": "liveness",
    "describe": "inspection.describe",
    "register_sites": "inspection.describe",
    "apply": "runtime.apply",
    "remove": "runtime.apply",
    "measure_cost": "inspection.measure_cost",
    "learn": "learning",
    "learn_family": "learning",
    "fit_gains": "learning",
    "MaskFamily": "family",
    "Action": "mask",
    "evaluate": "evaluation",
    "StepMaskError": "errors",
    "MaskFileError": "errors",
    "MaskMismatchError": "errors",
    "PositionError": "errors",
    "TargetError": "errors",
    "UnknownArchitectureError": "errors",
    "UnsupportedModelError": "errors",
}
_SUBMODULES = {"errors", "learning", "presets", "schedules"}

__all__ = [
    "Action",
    "BlockGraph",
    "CostTable",
    "MaskFamily",
    "MaskFileError",
    "MaskMismatchError",
    "Plan",
    "PositionError",
    "Site",
    "State",
    "StepMask",
    "StepMaskError",
    "TargetError",
    "UnknownArchitectureError",
    "UnsupportedModelError",
    "apply",
    "describe",
    "errors",
    "evaluate",
    "fit_gains",
    "learn",
    "learn_family",
    "learning",
    "make_plan",
    "measure_cost",
    "presets",
    "register_sites",
    "remove",
    "schedules",
]

if TYPE_CHECKING:
    from stepmask import errors, learning, presets, schedules
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
    from stepmask.evaluation import evaluate
    from stepmask.family import MaskFamily
    from stepmask.graph import BlockGraph, Site
    from stepmask.inspection.describe import describe, register_sites
    from stepmask.inspection.measure_cost import measure_cost
    from stepmask.learning import fit_gains, learn, learn_family
    from stepmask.liveness import Plan, State, make_plan
    from stepmask.mask import Action, StepMask
    from stepmask.runtime.apply import apply, remove


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"stepmask.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(f"stepmask.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'stepmask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
