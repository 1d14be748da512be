"""Arguments that every way to learn takes: checks of numbers and choices, and call arguments as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args

import torch
from torch import Tensor, nn

from stepmask.errors import StepMaskError

SAMPLED = 64
"""Of each parameter, so many values tell one set of weights from another."""


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


def comparable(value: Any) -> Any:
    """A call argument as JSON; tensors by a digest, others by their type alone: their text may hold an address."""
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): comparable(one) for name, one in value.items()}
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {_digest([value])}"
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__


def weights_digest(model: nn.Module) -> str:
    """A sum that changes when the weights do, or how strongly adapters act; the same on every machine."""
    scales = {name: getattr(module, "scaling", None) for name, module in model.named_modules()}  # as peft has them
    adapters = "".join(f"{name} {scale}" for name, scale in scales.items() if isinstance(scale, dict))
    return _digest([parameter.flatten()[:SAMPLED] for parameter in model.parameters()], adapters)


def _digest(tensors: Iterable[Tensor], more: str = "") -> str:
    found = hashlib.sha256(more.encode())
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
