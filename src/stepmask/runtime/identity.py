"""What tells one learning run from another: call arguments as JSON, a digest of the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

SAMPLED = 64
"""Of each parameter, so many values tell one set of weights from another."""


def comparable(value: Any) -> Any:
    """A call argument as JSON; tensors and images by a digest, others by type alone: their text may hold an address."""
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): comparable(one) for name, one in value.items()}
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {_digest([value])}"
    if isinstance(value, Image):
        return f"{value.mode} {value.size} {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
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
