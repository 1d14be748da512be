"""Example inputs for one forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def noise(model: nn.Module, batch_size: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random tensors (batch_size, *shape) by name, on the model's device and in its dtype; and ``timestep``."""
    parameter = next(model.parameters())
    options = {"device": parameter.device, "dtype": parameter.dtype}
    inputs: dict[str, Any] = {name: torch.randn(batch_size, *shape, **options) for name, shape in shapes.items()}
    return inputs | {"timestep": torch.full((batch_size,), 500, device=parameter.device)}


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """A configured sample size as two numbers."""
    return (size, size) if isinstance(size, int) else tuple(size)
