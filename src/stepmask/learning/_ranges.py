"""The check of numbers that every configuration makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from stepmask.errors import StepMaskError


def check_ranges(config: Any, ranges: Mapping[str, tuple[float, float]], whole: Collection[str]) -> None:
    """Raise unless each named attribute is a number within its range, and a whole one where `whole` names it."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise StepMaskError(f"{name} must be a number between {low:g} and {high:g}, got {value!r}")
        if name in whole and not isinstance(value, int):
            raise StepMaskError(f"{name} must be a whole number, got {value!r}")
