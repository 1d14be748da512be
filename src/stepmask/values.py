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
    places: tuple[tuple[int, int], ...]
    """Of the leaves that are tensors, the position and which of the tensors it is; one may stand at several."""


ALONE = Layout(tree_flatten(None)[1], (None,), ((0, 0),))
"""A value that is a tensor, as most are: told quickly, since it is asked for at every cell."""


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in a value, in the arguments of a call, or in any other nesting.

    What most of them are made of is told without `tree_leaves`, which takes five times as long.
    """
    if isinstance(tree, Tensor):
        return [tree]
    if type(tree) in (tuple, list):
        return [tensor for part in tree for tensor in tensors_in(part)]
    if type(tree) is dict:
        return tensors_in(list(tree.values()))
    if tree is None or type(tree) in (bool, int, float, str):
        return []
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def constant(value: Value) -> Value:
    """The value without the graph that a gradient would go back by; as it is where there is none."""
    if not any(tensor.requires_grad for tensor in tensors_in(value)):
        return value
    tensors, layout = take_apart(value)
    return put_together([tensor.detach() for tensor in tensors], layout)


def num_bytes(value: Value) -> int:
    """Bytes of all tensors in a value, one that stands there twice counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in take_apart(value)[0])


def take_apart(value: Value) -> tuple[list[Tensor], Layout]:
    """The tensors in a value, in order and each once, and what it takes to put others in their place."""
    if isinstance(value, Tensor):
        return [value], ALONE
    leaves, spec = tree_flatten(value)
    tensors = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}
    number = {key: i for i, key in enumerate(tensors)}
    places = tuple((i, number[id(leaf)]) for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return list(tensors.values()), Layout(spec, others, places)


def put_together(tensors: list[Tensor], layout: Layout) -> Value:
    """The value with these tensors."""
    if layout is ALONE:
        return tensors[0]
    leaves = list(layout.others)
    for position, number in layout.places:
        leaves[position] = tensors[number]
    return tree_unflatten(leaves, layout.spec)
