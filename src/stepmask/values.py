"""Values of sites: their tensors, and the tuples, and None, that are around them."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

Value = Any
"""What a site returns: a tensor, or a tuple of tensors, perhaps with None among them."""


class Layout(NamedTuple):
    """Says what a value is without its tensors."""

    spec: TreeSpec
    others: tuple[Any, ...]
    """Leaves, with None in the place of tensors."""
    tensors: tuple[int, ...]
    """Positions of the tensors among the leaves."""


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in a value, in the arguments of a call, or in any other nesting."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def num_bytes(value: Value) -> int:
    """Bytes of all tensors in a value, one that stands there twice counted once."""
    tensors = {id(tensor): tensor for tensor in tensors_in(value)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def take_apart(value: Value) -> tuple[list[Tensor], Layout]:
    """The tensors in a value, in order, and what it takes to put others in their place."""
    leaves, spec = tree_flatten(value)
    tensors = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return [leaves[i] for i in tensors], Layout(spec, others, tensors)


def put_together(tensors: list[Tensor], layout: Layout) -> Value:
    """The value with these tensors."""
    leaves = list(layout.others)
    for position, tensor in zip(layout.tensors, tensors, strict=True):
        leaves[position] = tensor
    return tree_unflatten(leaves, layout.spec)
