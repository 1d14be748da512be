"""Operations on tensors without values, whose results are found once for arguments of the same layouts.

Torch finds the shape of a result in Python, which can take a hundred times as long as the operation itself on a small
tensor. The blocks of a model repeat each other, and a model is copied more than once.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

MOST_OPERATIONS = 1 << 14
"""How many are remembered."""


class Layout(NamedTuple):
    """What there is to a tensor without values."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class _NotByLayout(Exception):
    """There is more to a tensor than its layout."""


_results: dict[Hashable, Any] = {}


class Remembering(TorchDispatchMode):
    """Within it, the layout of what an operation makes on the meta device is remembered."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        try:
            operation = _compared((func, args, tuple(kwargs.items()))) if _makes_anew(func) else None
            hash(operation)
        except (_NotByLayout, TypeError):  # or an argument that has no hash
            operation = None
        if operation in _results:
            return _made(_results[operation])
        result = func(*args, **kwargs)
        if operation is not None and all(map(_has_only_a_layout, result if isinstance(result, tuple) else [result])):
            if len(_results) == MOST_OPERATIONS:
                _results.clear()
            _results[operation] = _compared(result)
        return result


@cache
def _makes_anew(func: Any) -> bool:
    """Whether what an operation returns shares no memory with what it takes, of which it changes nothing."""
    return not func._schema.is_mutable and all(value.alias_info is None for value in func._schema.returns)


def _has_only_a_layout(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.is_meta


def _compared(value: Any) -> Any:
    """Arguments or results as something to compare, with layouts in place of tensors."""
    if isinstance(value, Tensor):
        if not _has_only_a_layout(value):
            raise _NotByLayout
        return Layout(value.shape, value.stride(), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(map(_compared, value))
    return type(value), value


def _made(layouts: Layout | tuple[Layout, ...]) -> Tensor | tuple[Tensor, ...]:
    if isinstance(layouts, Layout):
        return torch.empty_strided(layouts.shape, layouts.stride, dtype=layouts.dtype, device="meta")
    return tuple(map(_made, layouts))
