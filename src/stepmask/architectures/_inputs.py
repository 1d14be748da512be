"""Example inputs for one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


def noise(model: nn.Module, batch_size: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random tensors (batch_size, *shape) by name, on the model's device and in its dtype; and ``timestep``."""
    parameter = next(model.parameters())
    options = {"device": parameter.device, "dtype": parameter.dtype}
    inputs: dict[str, Any] = {name: torch.randn(batch_size, *shape, **options) for name, shape in shapes.items()}
    return inputs | {"timestep": torch.full((batch_size,), 500, device=parameter.device)}


def repeated(inputs: Mapping[str, Any], batch_size: int, like: Tensor) -> dict[str, Any]:
    """Inputs for another batch size and device: what has the batch size of the sample in front is repeated or cut.

    Args:
        inputs: Keyword arguments; the first tensor of two dimensions or more is the sample.
        batch_size: Of the result.
        like: A parameter of the model that gets them.
    """
    given = next(len(value) for value in inputs.values() if isinstance(value, Tensor) and value.dim() > 1)

    def fit(tensor: Tensor) -> Tensor:
        if tensor.is_meta and not like.is_meta:
            tensor = torch.zeros_like(tensor, device=like.device)
        if tensor.dim() and len(tensor) == given:
            tensor = tensor[[i % given for i in range(batch_size)]]
        return tensor.to(like.device)

    return {name: tree_map_only(Tensor, fit, value) for name, value in inputs.items()}


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """A configured sample size as two numbers."""
    return (size, size) if isinstance(size, int) else tuple(size)
