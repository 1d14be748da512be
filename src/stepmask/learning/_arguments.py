"""Arguments that every way to learn takes: checks of numbers, and call arguments as JSON."""

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


def check_steps(num_inference_steps: Any) -> None:
    """Raise unless it is a number of steps."""
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, int) or num_inference_steps < 1:
        raise StepMaskError(f"num_inference_steps must be a whole number of at least 1, got {num_inference_steps!r}")


def comparable(value: Any) -> Any:
    """A call argument as JSON; of anything but plain values only the type, its text may hold an address."""
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__
