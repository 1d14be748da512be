"""Gate: the only place where a module's ``forward`` is replaced.

Instances are gated, never classes, and restored in reverse order, also after an exception. What a gate does is said by
its controller; it knows neither masks nor steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

from torch import nn

from stepmask.errors import UnsupportedModelError
from stepmask.values import Value, put_together, take_apart

Controller = Callable[[Callable[..., Any], tuple, dict], Any]
"""Gets ``compute``, args and kwargs. ``compute()`` runs the module on the same arguments, ``compute(args, kwargs)`` on
others; either may be called any number of times."""


@dataclass
class Passage:
    """Of the gates that a call comes by, which have anything to do in it, and which it has come by.

    Attributes:
        asks: Whether a gate has anything to do, by its number; changed in place.
        passed: A bit for each number.
    """

    asks: list[bool]
    passed: int = 0


@dataclass(frozen=True)
class Occasional:
    """A controller that lets many calls through: its gate does so itself, since each line of Python takes its time.

    Attributes:
        control: What is done where the gate is asked; where it is not, it does what the gate would.
        passage: Says whether it is.
        number: Number of the gate.
        bit: What is noted of a call that comes by.
    """

    control: Controller
    passage: Passage
    number: int
    bit: int

    def __call__(self, compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """As any controller."""
        return self.control(compute, args, kwargs)


def copied(value: Value) -> Value:
    """A copy of a value into which the model writes; a tensor that stands there twice stays one."""
    tensors, layout = take_apart(value)
    return put_together([tensor.clone() for tensor in tensors], layout)


def copying(controller: Controller) -> Controller:
    """The same, but what comes out is a copy."""
    return lambda compute, args, kwargs: copied(controller(compute, args, kwargs))


def one_within_the_other(outer: Controller, inner: Controller) -> Controller:
    """One controller for a module that is two sites at once: what the outer one computes is what the inner one says."""

    def control(compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        def within(a: tuple = args, k: dict = kwargs) -> Any:
            return inner(partial(compute, a, k), a, k)

        return outer(within, args, kwargs)

    return control


def _let_through(controller: Occasional, original: Callable, asked: Callable) -> Callable:
    """The forward of a gate that is asked at times."""
    passage, number, bit = controller.passage, controller.number, controller.bit
    asks = passage.asks

    def forward(*args: Any, **kwargs: Any) -> Any:
        if asks[number]:
            return asked(*args, **kwargs)
        passage.passed |= bit
        return original(*args, **kwargs)

    return forward


class Gate:
    """Replaces the forward of one module instance until `remove`; of a compiled one, what was compiled.

    Args:
        name: The module's name, for messages.
        module: The module.
        controller: What is done at each call.
        is_traced: Whether the gate is compiled with a module around it: then it is the forward in any case.
    """

    def __init__(self, name: str, module: nn.Module, controller: Controller, is_traced: bool = False) -> None:
        self.name, self.module = name, module
        # outside of a compiled region: within it, the gate would be compiled anew for every row
        is_outside = module._compiled_call_impl is not None and not is_traced
        self._where = "_compiled_call_impl" if is_outside else "forward"
        self._had_own = self._where in module.__dict__  # a wrapper that was there before, as accelerate's
        self._original = original = getattr(module, self._where)

        def forward(*args: Any, **kwargs: Any) -> Any:
            def compute(a: tuple = args, k: dict = kwargs) -> Any:
                return original(*a, **k)

            return controller(compute, args, kwargs)

        self._forward = forward
        if isinstance(controller, Occasional) and not is_traced:
            self._forward = _let_through(controller, original, forward)
        setattr(module, self._where, self._forward)

    @property
    def lost(self) -> bool:
        """Whether a wrapper that was there before the gate was removed since, and the gate with it.

        Then stands what that one had wrapped; diffusers' and accelerate's wrappers tell what that is. A module that is
        compiled anew has lost it too.
        """
        found, before = getattr(self.module, self._where), self._original
        if found is self._forward or self._where != "forward":
            return found is not self._forward
        while before is not None and before != found:
            before = getattr(before, "__wrapped__", None)
        return before is not None

    def remove(self) -> None:
        """Put back what was there; of a gate that is lost nothing is left.

        Raises:
            UnsupportedModelError: Something else has wrapped the module since; it is left as it is.
        """
        if self.lost:
            return
        if self.module.__dict__.get(self._where) is not self._forward:
            raise UnsupportedModelError(
                f"{self.name} was wrapped by something else while a mask was applied (offload hooks?); undo that "
                "first, then remove the mask; in general enable offload first and apply the mask after it"
            )
        if self._had_own:
            setattr(self.module, self._where, self._original)
        else:
            delattr(self.module, self._where)


class Gates:
    """Several gates that are installed and removed together.

    Args:
        plan: Names, modules, and what is done at each.
        traced: Names of those that are compiled with a module around them.
    """

    def __init__(self, plan: Sequence[tuple[str, nn.Module, Controller]], traced: Collection[str] = ()) -> None:
        self._gates: list[Gate] = []
        self._root: nn.Module | None = None
        try:
            for name, module, controller in plan:
                self._gates.append(Gate(name, module, controller, name in traced))
        except BaseException:
            self.remove()
            raise

    def check(self, root: nn.Module) -> None:
        """See that the gates are still where they were put.

        Raises:
            UnsupportedModelError: A module was replaced by another, or a gate went with what it had wrapped.
        """
        if root is not self._root:
            self._root = root
            self._find()
        for name, (parent, key, module) in self._found.items():
            if parent._modules.get(key) is not module:
                raise UnsupportedModelError(
                    f"{name} was replaced after the mask was applied (an adapter, fused layers?): remove the "
                    "mask before such changes and apply it after them"
                )
        for gate in self._gates:
            if gate.lost:
                raise UnsupportedModelError(
                    f"{gate.name} was wrapped by something else when the mask was applied (offload hooks, a cache of "
                    "diffusers?), which was undone since: remove the mask before such changes and apply it after them"
                )

    @property
    def are_bypassed(self) -> bool:
        """Whether a gated module, or one around it, was compiled since, or is no longer."""
        return self._compiled_now() != self._compiled

    def _compiled_now(self) -> list[Any]:
        """What of each module is compiled. Asked at every call of the denoiser, so no line of Python runs for each."""
        return list(map(dict.get, self._attributes, repeat("_compiled_call_impl")))

    def _find(self) -> None:
        """Find the gated modules, and those around them: in what each is, under which key, and which it is."""
        root, self._found = self._root, {}
        for gate in self._gates:
            parent, _, key = gate.name.rpartition(".")
            self._found[gate.name] = root.get_submodule(parent), key, gate.module
        for gate in self._gates:
            parts = gate.name.split(".")
            for end in range(1, len(parts)):
                parent, name = root.get_submodule(".".join(parts[: end - 1])), ".".join(parts[:end])
                self._found.setdefault(name, (parent, parts[end - 1], root.get_submodule(name)))
        self._attributes = [vars(module) for _, _, module in self._found.values()]
        self._compiled = self._compiled_now()

    def remove(self) -> None:
        """Restore in reverse order; every gate is tried, the first error is raised at the end."""
        first_error = None
        kept = []
        for gate in reversed(self._gates):
            try:
                gate.remove()
            except UnsupportedModelError as error:
                kept.append(gate)
                first_error = first_error or error
        self._gates = kept[::-1]
        if first_error is not None:
            raise first_error


@contextlib.contextmanager
def gated(plan: Sequence[tuple[str, nn.Module, Controller]]) -> Iterator[None]:
    """Install several gates for a while."""
    gates = Gates(plan)
    try:
        yield
    finally:
        gates.remove()


@contextlib.contextmanager
def answered(module: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """Let something else answer all calls of a module for a while: neither its forward runs nor any hook or gate."""
    before = module._compiled_call_impl
    module._compiled_call_impl = answer
    try:
        yield
    finally:
        module._compiled_call_impl = before
