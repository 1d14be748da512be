"""Whether a call of the denoiser may go on from what the call before it has cached: by shapes, modes and conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from stepmask.values import tensors_in


class Call:
    """What a call got, by shape and, of its tensors, by identity: a stream's conditions are the same at every step.

    Where they change in mid-run, what was cached belongs to other conditions: a callback has swapped the prompt, or
    another pipeline calls after an interrupted run. Tensors that a pipeline makes anew for every call say nothing, so
    what changes between the first two calls of a stream is not noticed.
    """

    def __init__(self, args: tuple, kwargs: dict) -> None:
        values = [*args, *kwargs.values()]
        tensors = tensors_in(values)
        self._shape = _shape(values, kwargs, tensors)
        self._tensors = [ref(tensor) for tensor in tensors]
        self._constant: set[int] | None = None

    def follows(self, before: Call) -> bool:
        """Whether it may go on from the call before; else it begins a stream, and the next call says what stays."""
        if self._shape != before._shape:
            return False
        pairs = zip(self._tensors, before._tensors, strict=False)
        same = {i for i, (now, then) in enumerate(pairs) if now() is then()}
        constant = same if before._constant is None else before._constant
        if not constant <= same:
            return False
        self._constant = constant
        return True


def _shape(values: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[Tensor]) -> tuple:
    """What must stay the same for cached values to fit.

    Dtype and device of the sample, the shapes of all tensors, and which arguments there are, since an adapter that ends
    in mid-run takes its part of the values with it; of texts and truth values, which are modes, what they say. Under
    autocast the values' dtype is that of autocast, while a scheduler may return samples of another dtype than the
    noise had.
    """
    sample = next((value for value in values if isinstance(value, Tensor) and value.dim() > 1), None)
    given = tuple(
        (name, value if isinstance(value, str | bool) else None) for name, value in kwargs.items() if value is not None
    )
    shapes = [tensor.shape for tensor in tensors]
    if sample is None:
        return given, shapes
    dtype = None if torch.is_autocast_enabled(sample.device.type) else sample.dtype
    return shapes, dtype, sample.device, given
