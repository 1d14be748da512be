"""Arguments that every way to learn takes: checks of numbers and choices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, get_args

from stepmask.errors import StepMaskError


class Knobs:
    """What the configurations of all methods, dataclasses of options, have in common."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(field.name for field in fields(cls))


def check_choices(config: Any, choices: Mapping[str, Any]) -> None:
    """Raise unless each named attribute is one of the values of its ``Literal``."""
    for name, allowed in choices.items():
        if getattr(config, name) not in get_args(allowed):
            raise StepMaskError(f"{name} must be one of {', '.join(get_args(allowed))}, got {getattr(config, name)!r}")


def check_ranges(config: Any, ranges: Mapping[str, tuple[float, float]], whole: Collection[str]) -> None:
    """Raise unless each named attribute is a number within its range, and a whole one where `whole` names it."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise StepMaskError(f"{name} must be a number between {low:g} and {high:g}, got {value!r}")
        if name in whole and not isinstance(value, int):
            raise StepMaskError(f"{name} must be a whole number, got {value!r}")


def check_count(name: str, value: Any) -> None:
    """Raise unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StepMaskError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_seed(value: Any) -> None:
    """Raise unless it is a whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise StepMaskError(f"seed must be a whole number, 0 or more, got {value!r}")
