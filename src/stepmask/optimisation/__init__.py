"""Which recipe is best for a budget: fewer steps, cheaper ones, lower resolution, or all. Begin with `entry`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepmask.optimisation.closed_form import optimised_timesteps
    from stepmask.optimisation.entry import optimise

__all__ = ["optimise", "optimised_timesteps"]

_WHERE = {"optimise": "entry", "optimised_timesteps": "closed_form"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"stepmask.optimisation.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'stepmask.optimisation' has no attribute {name!r}")
