"""Schedules: masks by rule, without learning. Pure functions from a graph and timesteps, one per file.

Each takes a graph and its timesteps, or a pipeline and a number of steps; `ScheduleInputs` turns the latter into the
former. A package outside of stepmask adds one with `register`, from a module that its entry point names
(`stepmask.plugins`). Schedules that others have published as files are read by `importers`.
"""

from __future__ import annotations

from typing import Any

from stepmask.errors import StepMaskError
from stepmask.schedules import registry
from stepmask.schedules.deepcache import deepcache
from stepmask.schedules.fora import fora
from stepmask.schedules.importers import (
    export_cache_dit,
    export_smoothcache,
    import_cache_dit,
    import_l2c,
    import_smoothcache,
)
from stepmask.schedules.inputs import ScheduleInputs, check_interval, check_steps
from stepmask.schedules.key_steps import key_steps
from stepmask.schedules.registry import get, names, register

__all__ = [
    "ScheduleInputs",
    "check_interval",
    "check_steps",
    "deepcache",
    "export_cache_dit",
    "export_smoothcache",
    "fora",
    "get",
    "import_cache_dit",
    "import_l2c",
    "import_smoothcache",
    "key_steps",
    "names",
    "register",
]


def __getattr__(name: str) -> Any:
    """Schedules of plugins, which are loaded when a name is asked for that is not known here."""
    if not name.startswith("_"):
        try:
            return registry.get(name)
        except StepMaskError as error:
            raise AttributeError(str(error)) from None
    raise AttributeError(f"module 'stepmask.schedules' has no attribute {name!r}")
