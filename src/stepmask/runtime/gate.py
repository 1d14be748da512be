"""Gate: the only place where a module's ``forward`` is replaced.

Instances are gated, never classes, and restored in reverse order, also after an exception. What a gate does is said by
its controller; it knows neither masks nor steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from stepmask.errors import UnsupportedModelError

Controller = Callable[[Callable[..., Any], tuple, dict], Any]
"""Gets ``compute``, args and kwargs. ``compute()`` runs the module on the same arguments, ``compute(args, kwargs)`` on
others; either may be called any number of times."""


class Gate:
    """Replaces the forward of one module instance until `remove`."""

    def __init__(self, name: str, module: nn.Module, controller: Controller) -> None:
        self.name = name
        self._module = module
        self._had_own = "forward" in module.__dict__  # a wrapper that was there before, as accelerate's
        self._original = original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            def compute(a: tuple = args, k: dict = kwargs) -> Any:
                return original(*a, **k)

            return controller(compute, args, kwargs)

        self._forward = forward
        module.forward = forward

    def remove(self) -> None:
        """Put back what was there.

        Raises:
            UnsupportedModelError: Something else has wrapped the module since; it is left as it is.
        """
        if self._module.__dict__.get("forward") is not self._forward:
            raise UnsupportedModelError(
                f"{self.name} was wrapped by something else while a mask was applied (offload hooks?); undo that "
                "first, then remove the mask; in general enable offload first and apply the mask after it"
            )
        if self._had_own:
            self._module.forward = self._original
        else:
            del self._module.forward


class Gates:
    """Several gates that are installed and removed together."""

    def __init__(self, plan: Sequence[tuple[str, nn.Module, Controller]]) -> None:
        self._gates: list[Gate] = []
        try:
            for name, module, controller in plan:
                self._gates.append(Gate(name, module, controller))
        except BaseException:
            self.remove()
            raise

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
