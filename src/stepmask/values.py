"""The tensors in a site's value, and what is around them: tuples, None where attention returns no weights."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


class Layout(NamedTuple):
    """What a value is without its tensors."""

    spec: TreeSpec
    others: tuple[Any, ...]
    """Leaves, with None in the place of tensors."""
    tensors: tuple[int, ...]
    """Positions of the tensors among the leaves."""


def take_apart(value: Any) -> tuple[list[Tensor], Layout]:
    """The tensors in a value, in order, and what it takes to put others in their place."""
    leaves, spec = tree_flatten(value)
    tensors = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return [leaves[i] for i in tensors], Layout(spec, others, tensors)


def num_bytes(value: Any) -> int:
    """Bytes of all tensors in a value."""
    return sum(tensor.numel() * tensor.element_size() for tensor in take_apart(value)[0])


def put_together(tensors: list[Tensor], layout: Layout) -> Any:
    """The value with these tensors."""
    leaves = list(layout.others)
    for position, tensor in zip(layout.tensors, tensors, strict=True):
        leaves[position] = tensor
    return tree_unflatten(leaves, layout.spec)
