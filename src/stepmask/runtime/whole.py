"""A denoiser that torch.compile was given as a whole: under a mask each distinct row is a graph, of a few at most.

Of more rows the blocks are compiled one by one, with the same options, since blocks of a class share their graphs. That
a call comes through torch.compile is seen when it arrives, so that it does not matter what came first. A denoiser
is kept from being traced for as long as a mask is applied: what is traced is the forward that it had.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Hashable, Sequence, Set
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch._dynamo.decorators import skip
from torch._dynamo.eval_frame import OptimizeContext, OptimizedModule

from stepmask.gate import Controller
from stepmask.graph import BlockGraph
from stepmask.runtime.compiled import MOST_ROWS, MOST_SITES, Region, context_of, is_compiled, path_to

_CODES: WeakKeyDictionary[nn.Module, dict[Hashable, CodeType]] = WeakKeyDictionary()
"""By denoiser the code of each row: torch keeps graphs beside the code, so another mask finds those of its rows."""


class Whole:
    """Lets a denoiser run row by row or block by block where it was compiled as a whole, until `remove`.

    Args:
        denoiser: The model itself.
        graph: Its sites.
        num_rows: Distinct rows of what is executed; None where it decides as it goes.
    """

    def __init__(self, denoiser: nn.Module, graph: BlockGraph, num_rows: int | None) -> None:
        self._denoiser, self._graph, self._num_rows = denoiser, graph, num_rows
        self.control: Controller | None = None
        """What is done at each call, where the forward itself is compiled."""
        self._region: Region | None = None
        self._rows: dict[Hashable, Callable[..., Any]] = {}
        self._is_by_rows = False
        self._blocks: list[nn.Module] = []
        self._by: OptimizeContext | None = None
        self._restore: list[Callable[[], None]] = []
        self._before = denoiser.__dict__.get("forward")
        by = context_of(self._before)
        original = denoiser.forward if by is None else self._before._torchdynamo_orig_callable
        self._original = original

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.control is None:
                return original(*args, **kwargs)
            return self.control(lambda: self._row(self._region.key)(*args, **kwargs), args, kwargs)

        self._forward = _untraced(functools.update_wrapper(forward, original))
        denoiser.forward = self._forward
        if is_compiled(denoiser):
            self._go_around(None)
        elif by is not None:
            self._compile(by)

    def region(self, acting: Set[int]) -> Region | None:
        """The denoiser with the sites within that act; None where it is not compiled, or block by block."""
        self.control = self._region = None
        if self._is_by_rows:
            sites = sorted(acting)
            self._region = Region(self._denoiser, sites, self._graph, self._by, self._original, is_whole=True)
        return self._region

    def _row(self, key: Hashable) -> Callable[..., Any]:
        """The compiled forward of a row: of one code for all, each call would check the guards of other rows too."""
        if key not in self._rows:
            original = self._original

            def forward(*args: Any, **kwargs: Any) -> Any:
                return original(*args, **kwargs)

            codes = _CODES.setdefault(self._denoiser, {})
            if key not in codes:
                codes[key] = forward.__code__.replace(co_name=f"row_{len(codes)}")
            forward.__code__ = codes[key]
            self._rows[key] = self._by(forward)
        return self._rows[key]

    def notice(self) -> bool:
        """Compile rows or blocks where the call that is being made comes through torch.compile; whether it does.

        Later calls no longer come that way.
        """
        forward = self._denoiser.__dict__.get("forward")
        by = context_of(forward)
        if forward is not self._forward and by is not None:  # since the mask was applied
            self._denoiser.forward, self._before = self._forward, by(self._original)
            self._compile(by)
            return True
        wrapper = _wrapper_of(self._denoiser)
        if wrapper is None and not is_compiled(self._denoiser):
            return False
        self._go_around(wrapper)
        return True

    def _go_around(self, wrapper: OptimizedModule | None) -> None:
        """Let calls reach the denoiser itself: with `fullgraph` it is an error where nothing is compiled in a call."""
        denoiser = self._denoiser
        if wrapper is None:
            compiled, denoiser._compiled_call_impl = denoiser._compiled_call_impl, None
            by = context_of(compiled)

            def restore() -> None:
                if denoiser._compiled_call_impl is None:
                    denoiser._compiled_call_impl = compiled
        else:
            compiled, wrapper.forward = wrapper.forward, denoiser.__call__
            by = wrapper.dynamo_ctx

            def restore() -> None:
                wrapper.forward = compiled

        self._restore.append(restore)
        self._compile(by)

    def _compile(self, by: OptimizeContext) -> None:
        if by is self._by:
            return
        self._release()
        self._by = by
        parts = filter(is_compiled, self._denoiser.modules())
        if self._num_rows is not None and self._num_rows <= MOST_ROWS and not any(parts):
            self._is_by_rows = True
            return
        self._blocks = [self._denoiser.get_submodule(name) for name in blocks_to_compile(self._denoiser, self._graph)]
        for block in self._blocks:
            block._compiled_call_impl = by(block._call_impl)
        warnings.warn(
            f"the {type(self._denoiser).__name__} is compiled as a whole, which would need a graph of all of it for "
            f"every distinct row of the mask, more than {MOST_ROWS}: under the mask its {len(self._blocks)} blocks are "
            "compiled one by one, with the same options, and what is around them is not",
            stacklevel=2,
        )

    def _release(self) -> None:
        for block in self._blocks:
            block.__dict__.pop("_compiled_call_impl", None)
        self._blocks, self._rows, self._is_by_rows = [], {}, False

    def remove(self) -> None:
        """Put everything back, after the gates on the blocks were removed."""
        self._release()
        self.control = self._region = None
        for restore in reversed(self._restore):
            restore()
        forward, self._forward, self._restore = self._forward, None, []  # the forward holds this
        if forward is None or self._denoiser.__dict__.get("forward") is not forward:
            return  # something has wrapped it since; what is within does nothing but run the model
        if self._before is None:
            del self._denoiser.forward
        else:
            self._denoiser.forward = self._before


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which torch.compile leaves as it is, also where it is asked for a full graph of it."""
    inner = torch.compiler.disable(function)

    def untraced(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    return skip(functools.update_wrapper(untraced, function))


def blocks_to_compile(denoiser: nn.Module, graph: BlockGraph) -> list[str]:
    """Names of the outermost submodules that hold or are a few of the innermost sites, in order.

    Where the user has compiled some, those alone.
    """
    sites = graph.innermost.names
    found = {}
    for site in sites:
        path = [*path_to(site), site]
        if any(is_compiled(denoiser.get_submodule(name)) for name in path):
            continue
        found[next(name for name in path if _is_block(denoiser, name, sites))] = None
    return list(found)


def _is_block(denoiser: nn.Module, name: str, sites: Sequence[str]) -> bool:
    if isinstance(denoiser.get_submodule(name), nn.ModuleList):
        return False
    return sum(site == name or site.startswith(f"{name}.") for site in sites) <= MOST_SITES


def _wrapper_of(denoiser: nn.Module) -> OptimizedModule | None:
    """What ``torch.compile(denoiser)`` returned, where the call that is being made has come through it."""
    frame, is_compiled_call = sys._getframe(1), False
    while frame is not None and not _is_of_torch(frame):
        frame = frame.f_back
    while frame is not None and _is_of_torch(frame):
        owner = frame.f_locals.get("self")
        is_compiled_call |= isinstance(owner, OptimizeContext)
        if is_compiled_call and isinstance(owner, OptimizedModule) and owner._orig_mod is denoiser:
            return owner
        frame = frame.f_back
    return None


def _is_of_torch(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").startswith("torch.")
