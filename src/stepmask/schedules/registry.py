"""Which schedules there are: each registers where it is defined, under the name of its function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.plugins import load_plugins
from stepmask.words import did_you_mean

Schedule = Callable[..., StepMask]
"""Makes a mask of a graph and its timesteps, or of a pipeline and a number of steps, and of options by name."""

S = TypeVar("S", bound=Schedule)

_schedules: dict[str, Schedule] = {}


def register(schedule: S) -> S:
    """Decorator: a function that makes a mask without learning becomes a schedule under its own name.

    From then on it is ``stepmask.schedules.NAME``, is listed by `names`, and is a rule of ``stepmask schedule``.

    Example:
        >>> @register
        ... def first_half(graph_or_pipe, timesteps, share: float = 0.5) -> StepMask:
        ...     inputs = ScheduleInputs(graph_or_pipe, timesteps)
        ...     compute = np.ones((len(inputs.timesteps), len(inputs.graph)), dtype=bool)
        ...     compute[round(share * len(compute)) :, inputs.graph.blocks] = False
        ...     return inputs.mask(compute, method="first_half", share=share)

    Args:
        schedule: Takes a `BlockGraph` or a pipeline first, then the timesteps or the number of steps, then options that
            have defaults. `ScheduleInputs` reads the first two. Its docstring, in Google style, is the help of the
            command line.

    Raises:
        StepMaskError: Another schedule has this name, or the function takes no model and timesteps.
    """
    name = schedule.__name__
    before = _schedules.get(name)
    if before is not None and (before.__module__, before.__qualname__) != (schedule.__module__, schedule.__qualname__):
        raise StepMaskError(f"there is a schedule {name!r} in {before.__module__}: choose another name")
    if len(inspect.signature(schedule).parameters) < 2:
        raise StepMaskError(f"the schedule {name!r} must take a graph or pipeline and the timesteps first")
    _schedules[name] = schedule
    return schedule


def names() -> tuple[str, ...]:
    """Names of all schedules, those of plugins included."""
    load_plugins()
    return tuple(sorted(_schedules))


def get(name: str) -> Schedule:
    """A schedule by name.

    Raises:
        StepMaskError: No schedule has this name; lists those that there are.
    """
    if name not in _schedules and name not in names():
        meant = did_you_mean(name, names())
        raise StepMaskError(f"there is no schedule {name!r}; there are {', '.join(names())}{meant}")
    return _schedules[name]


class ScheduleOption(NamedTuple):
    """What a user may choose about a schedule."""

    name: str
    default: Any
    help: str
    """What the docstring says of it; empty where that says nothing."""


def options(schedule: Schedule) -> tuple[ScheduleOption, ...]:
    """Options of a schedule, from its signature and its docstring."""
    said = _arguments(inspect.getdoc(schedule) or "")
    parameters = list(inspect.signature(schedule).parameters.values())[2:]
    return tuple(ScheduleOption(p.name, p.default, said.get(p.name, "")) for p in parameters)


def summary(schedule: Schedule) -> str:
    """The first line of a schedule's docstring."""
    return (inspect.getdoc(schedule) or "").partition("\n")[0]


def _arguments(doc: str) -> dict[str, str]:
    """Descriptions in the ``Args:`` section of a docstring in Google style, by the name of the argument."""
    found: dict[str, str] = {}
    section, name = "", ""
    for line in doc.splitlines():
        if line and not line.startswith(" "):
            section = line.strip()
        elif section == "Args:" and line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(": ")
            found[name] = text
        elif section == "Args:" and line.strip() and name:
            found[name] += f" {line.strip()}"
    return found
