"""What shapes and MACs of a call depend on, as something to compare: a model's structure, and the sizes of arguments.

So that what was found on a copy of a model (`twin`) is found once for models of the same structure, and not for
every mask that is made or measured.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeVar

from torch import Tensor, dtype, nn
from torch.utils._pytree import tree_flatten

from stepmask.inspection.placement import cast_to

PARALLEL = "_parallel_config"
"""In which diffusers keeps, in models and their attention processors, that several processes share each call."""

LEFT_BEHIND = ("forward", "_hf_hook", "_diffusers_hook", "_compiled_call_impl", PARALLEL)
"""Attributes in which whoever wraps a module keeps what runs it: a copy would run the original by them."""

MOST_STRUCTURES, MOST_ANSWERS = 32, 16
"""How many structures are remembered, and how many answers for each."""

MOST_VALUES = 4096
"""How many whole numbers an argument may hold for its answer to be remembered."""

DEPTH = 4
"""How deep helper objects are looked into."""

ALONE = (type(None), int, str)
"""Types whose values equal none of another type that is compared here."""

PLAIN = (bool, int, float, str, type, dtype)
"""Types of values that are compared as they are, beside their type."""

OWN = frozenset({"training", *(name for name in vars(nn.Module()) if "_hooks" in name)}) | {"_modules", *LEFT_BEHIND}
"""Attributes of any module on which no shape depends."""

T = TypeVar("T")

_answers: OrderedDict[Hashable, OrderedDict[Hashable, Any]] = OrderedDict()


class Incomparable(Exception):
    """Something that two models or calls may differ in without showing it."""


def remembered(model: nn.Module, question: Hashable, arguments: Any, find: Callable[[], T]) -> T:
    """What `find` returns, or has returned for a model of the same structure and arguments of the same sizes.

    Args:
        model: The model that is asked about.
        question: Names the question.
        arguments: The arguments of a call, in any nesting. Tensors of fractions are compared by shape, those of whole
            numbers by value too.
        find: Finds the answer. It depends on nothing else, and nobody changes what it returns.
    """
    try:
        structure, asked = structure_of(model), (question, sizes_of(arguments))
    except Incomparable:
        return find()
    answers = _answers.pop(structure, OrderedDict())
    _answers[structure] = answers  # the latest last
    if asked not in answers:
        answers[asked] = find()
    for kept, most in ((answers, MOST_ANSWERS), (_answers, MOST_STRUCTURES)):
        while len(kept) > most:
            kept.popitem(last=False)
    return answers[asked]


def structure_of(model: nn.Module) -> Hashable:
    """Return classes, sizes, dtypes and plain attributes of all modules; the values of weights are left out."""
    return tuple(
        (name, type(module), *_attributes(module)) for name, module in model.named_modules(remove_duplicate=False)
    )


def _attributes(module: nn.Module) -> Iterator[Hashable]:
    for name, value in vars(module).items():
        if name not in OWN and "_hooks" not in name:
            yield name, _plain(value, DEPTH)
    yield cast_to(module)


def _plain(value: Any, depth: int) -> Hashable:
    """A value, as far as shapes may depend on it."""
    if type(value) in ALONE:
        return value
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, Tensor):
        return type(value), tuple(value.shape), value.dtype
    if isinstance(value, nn.Module) or depth == 0:
        return type(value)
    if isinstance(value, Mapping):
        return type(value), *((str(key), _plain(part, depth - 1)) for key, part in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), *(_plain(part, depth - 1) for part in value)
    if isinstance(value, partial):
        return partial, _plain((value.func, value.args, value.keywords), depth)
    if isinstance(value, MethodType):
        return MethodType, type(value.__self__), _plain(value.__func__, depth)
    if isinstance(value, FunctionType):
        if value.__closure__:
            raise Incomparable
        return FunctionType, value.__code__
    if isinstance(value, BuiltinFunctionType):
        return value
    parts = getattr(value, "__dict__", {}).items()
    return type(value), *((key, _plain(part, depth - 1)) for key, part in parts if key != PARALLEL)


def sizes_of(arguments: Any) -> Hashable:
    """Shapes and dtypes of the tensors in the arguments of a call, the values of whole numbers, and all else.

    Raises:
        Incomparable: One of the arguments cannot be compared, or holds very many whole numbers.
    """
    leaves, layout = tree_flatten(arguments)
    return str(layout), *(_size(leaf) for leaf in leaves)


def _size(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        whole = not leaf.is_floating_point() and not leaf.is_complex() and not leaf.is_meta
        if whole and leaf.numel() > MOST_VALUES:
            raise Incomparable
        return tuple(leaf.shape), leaf.dtype, leaf.is_meta, tuple(leaf.flatten().tolist()) if whole else None
    if leaf is None or isinstance(leaf, bool | int | float | str):
        return type(leaf), leaf
    raise Incomparable
