"""Copies of a model without values: its structure without its weights, hooks and wrappers.

An operation on their tensors says its result's shape and computes nothing. Tensors of the first copy are on the meta
device. Where a model asks for its device, or reads whole numbers such as the lengths in a mask, that ends in an error;
then a second copy is tried, whose tensors claim to be on the CPU (torch's fake tensors). It is slower; whole numbers
that come with the call have values there. The last copy is built from the configuration.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from stepmask.errors import UnsupportedModelError
from stepmask.inspection.layouts import Remembering
from stepmask.inspection.placement import cast_to, dtype_of
from stepmask.inspection.quantised import is_quantised, plain_layer
from stepmask.inspection.structure import LEFT_BEHIND, PARALLEL
from stepmask.values import tensors_in

T = TypeVar("T")


@dataclass(frozen=True)
class Twin:
    """A copy of a model without values, in eval mode.

    Attributes:
        model: The copy.
        on_meta: Whether its tensors are on the meta device, or else fake ones that claim to be on the CPU.
    """

    model: nn.Module
    on_meta: bool = True

    def running(self) -> AbstractContextManager[Any]:
        """Return the context in which example inputs are made and the model runs."""
        return Remembering() if self.on_meta else _Fake(type(self.model).__name__)

    def inputs(self, arguments: Mapping[str, Any], hidden: Sequence[str] = ()) -> dict[str, Any]:
        """Arguments for a call of the copy; whole numbers keep their values where it can use them.

        Of those in `hidden`, no values are kept.
        """
        if self.on_meta:
            return tree_map_only(Tensor, _meta, dict(arguments))
        known = {name: tree_map_only(Tensor, _fake_unless_whole, value) for name, value in arguments.items()}
        return known | {name: tree_map_only(Tensor, _fake, known[name]) for name in hidden if name in known}


def on_a_twin(model: nn.Module, run: Callable[[Twin], T]) -> T:
    """What `run` returns on the first copy of a model that it can run on.

    Where there is none, the error is that of the second, which can do most; whatever a model's code may raise.
    """
    errors: list[Exception] = []
    for make in (_on_meta, _claiming_to_be_real, _from_configuration):
        try:
            with _without_log():
                return run(make(model))
        except Exception as error:
            errors.append(error)
    raise errors[1]


@contextmanager
def _without_log() -> Iterator[None]:
    """Torch logs every operation that a copy cannot do; the errors that are raised say it once."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def meta_twin(model: nn.Module) -> nn.Module:
    """Copy `model` in eval mode with meta tensors; costs no memory, leaves the model alone.

    Gates, offload wrappers and hooks are left behind, quantised layers are plain ones, and weights have the dtype that
    the model computes in, so that what is traced is the plain model.
    """
    return _copied(model, _meta)


def _on_meta(model: nn.Module) -> Twin:
    return Twin(meta_twin(model))


def _claiming_to_be_real(model: nn.Module) -> Twin:
    return Twin(_copied(model, _fake), on_meta=False)


def _from_configuration(model: nn.Module) -> Twin:
    """Other than a copy it has plain weights and plain attention, whatever was done to the model since."""
    if not hasattr(type(model), "from_config") or not hasattr(model, "config"):
        raise UnsupportedModelError(f"{type(model).__name__} has no configuration that it can be built from")
    with torch.device("meta"):
        return Twin(type(model).from_config(model.config).eval().requires_grad_(False))


def _copied(model: nn.Module, without_values: Callable[[Tensor], Tensor]) -> nn.Module:
    dtype, done = dtype_of(model), {}

    def copy_of(module: nn.Module, cast: torch.dtype | None) -> nn.Module:
        if id(module) not in done:
            cast = cast_to(module) or cast
            plain = plain_layer(module, dtype) if is_quantised(module) else module
            twin = done[id(module)] = plain.__class__.__new__(plain.__class__)
            _copy(plain, twin, partial(_sized_as, without_values, cast), partial(copy_of, cast=cast))
        return done[id(module)]

    return copy_of(model, None)


def _sized_as(without_values: Callable[[Tensor], Tensor], cast: torch.dtype | None, tensor: Tensor) -> Tensor:
    """A weight without values: a plain tensor, in the dtype that it is cast to for a call."""
    dtype = cast if cast is not None and tensor.is_floating_point() else tensor.dtype
    if dtype != tensor.dtype or not (type(tensor) in (Tensor, nn.Parameter) or _is_fake(tensor)):
        tensor = torch.empty(tensor.shape, dtype=dtype, device="meta")
    return without_values(tensor)


def _copy(
    module: nn.Module,
    twin: nn.Module,
    without_values: Callable[[Tensor], Tensor],
    copy_of: Callable[[nn.Module], nn.Module],
) -> None:
    twin.__dict__ = {key: value for key, value in module.__dict__.items() if key not in LEFT_BEHIND}
    for name, value in vars(module).items():
        if "_hooks" in name and isinstance(value, dict):
            twin.__dict__[name] = OrderedDict()
        elif name not in (*LEFT_BEHIND, "_parameters", "_buffers", "_modules"):
            twin.__dict__[name] = _apart(value, without_values)
    twin.__dict__["_parameters"] = {
        name: None if value is None else nn.Parameter(without_values(value), requires_grad=False)
        for name, value in module._parameters.items()
    }
    twin.__dict__["_buffers"] = {
        name: None if value is None else without_values(value) for name, value in module._buffers.items()
    }
    twin.__dict__["_modules"] = {
        name: None if child is None else copy_of(child) for name, child in module._modules.items()
    }
    twin.__dict__["training"] = False


def _apart(value: Any, without_values: Callable[[Tensor], Tensor]) -> Any:
    """What a module keeps beside its parts, so that nothing that a pass of the copy writes there reaches the original.

    That is tensors, containers and helper objects with their own tensors and containers; all else is shared.
    """
    if type(value) in (dict, OrderedDict, defaultdict, set):
        value = copy.copy(value)
    if isinstance(value, Tensor | tuple) or type(value) in (dict, OrderedDict, defaultdict, list):
        return tree_map_only(Tensor, without_values, value)
    shared = type(value).__module__.partition(".")[0] in ("builtins", "torch", "functools", "types", "weakref")
    if shared or isinstance(value, type | nn.Module) or not hasattr(value, "__dict__"):
        return value
    try:
        helper = copy.copy(value)
    except Exception:  # whatever its class may raise
        return value
    for name, part in vars(value).items():
        if name == PARALLEL:
            del helper.__dict__[name]
        elif isinstance(part, Tensor | tuple | dict | list | set):
            helper.__dict__[name] = _apart(part, without_values)
    return helper


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)


@cache
def _fake_mode() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


def _is_fake(value: Any) -> bool:
    return isinstance(value, FakeTensor)


def _fake(tensor: Tensor) -> Tensor:
    with _fake_mode():
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def _fake_unless_whole(tensor: Tensor) -> Tensor:
    if _is_fake(tensor) or (_is_whole(tensor) and not tensor.is_meta):
        return tensor.detach().cpu()
    return _fake(tensor)


class _Fake(TorchDispatchMode):
    """New tensors of fractions have no values; whole numbers have, as long as nothing without a value comes in."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        if not tensors:
            with _fake_mode():
                made = func(*args, **kwargs)
            return func(*args, **kwargs) if isinstance(made, Tensor) and _is_whole(made) else made
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [row for index in args[1] for row in _rows(index)])
        if any(map(_is_fake, tensors)) and not all(map(_is_fake, written(func, args, kwargs))):
            raise self._refused("writes a value that a copy of it does not know into whole numbers")
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise self._refused("makes a choice by the value of a tensor") from error

    def _refused(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self._name} {what}, so it cannot be traced without computing anything. If the example inputs are right, "
            "its graph has to be declared: CONTRIBUTING.md shows how"
        )


def _rows(index: Tensor | None) -> Sequence[Tensor | None]:
    """An index as whole numbers: a mask with values says how much it chooses, which a copy else does not know."""
    if index is None or _is_fake(index) or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return index.nonzero().unbind(1)


def written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes into."""
    if not func._schema.is_mutable:
        return []
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    arguments = (a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    return tensors_in([given.get(argument.name) for argument in arguments])
