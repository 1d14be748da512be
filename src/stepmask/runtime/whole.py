"""A denoiser that torch.compile was given as a whole: under a mask its blocks are compiled, with the same options.

One graph of all blocks would be needed for every row of a mask; compiled one by one, blocks of a class share theirs.
That a call comes through torch.compile is seen when it arrives, so that it does not matter what came first. A denoiser
is kept from being traced for as long as a mask is applied.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizeContext, OptimizedModule

from stepmask.errors import UnsupportedModelError
from stepmask.graph import BlockGraph
from stepmask.runtime.compiled import MOST_SITES, context_of, is_compiled, path_to


class Whole:
    """Lets a denoiser run block by block where it was compiled as a whole, until `remove`.

    Args:
        denoiser: The model itself.
        graph: Its sites.
    """

    def __init__(self, denoiser: nn.Module, graph: BlockGraph) -> None:
        self._denoiser, self._graph = denoiser, graph
        self._blocks: list[nn.Module] = []
        self._by: OptimizeContext | None = None
        self._restore: list[Callable[[], None]] = []
        self._before = denoiser.__dict__.get("forward")
        by = context_of(self._before)
        original = denoiser.forward if by is None else self._before._torchdynamo_orig_callable

        def forward(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        self._forward = torch.compiler.disable(functools.update_wrapper(forward, original))
        denoiser.forward = self._forward
        if is_compiled(denoiser):
            self._go_around(None)
        elif by is not None:
            self._compile_blocks(by)

    def notice(self) -> bool:
        """Compile the blocks where the call that is being made has come through torch.compile; whether it has.

        Later calls no longer come that way.

        Raises:
            UnsupportedModelError: What is compiled is the forward, so that it is too late in this call.
        """
        forward = self._denoiser.__dict__.get("forward")
        if forward is not self._forward and context_of(forward) is not None:
            raise UnsupportedModelError(
                f"the forward of {type(self._denoiser).__name__} was compiled after the mask was applied: remove the "
                "mask, compile, apply it again; or compile the model, model.compile()"
            )
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
        self._compile_blocks(by)

    def _compile_blocks(self, by: OptimizeContext) -> None:
        if by is self._by:
            return
        self._release()
        self._by = by
        self._blocks = [self._denoiser.get_submodule(name) for name in blocks_to_compile(self._denoiser, self._graph)]
        for block in self._blocks:
            block._compiled_call_impl = by(block._call_impl)
        warnings.warn(
            f"the {type(self._denoiser).__name__} is compiled as a whole, which would need a graph of all of it for "
            f"every row of the mask: under the mask its {len(self._blocks)} blocks are compiled one by one, with the "
            "same options, and what is around them is not",
            stacklevel=2,
        )

    def _release(self) -> None:
        for block in self._blocks:
            block.__dict__.pop("_compiled_call_impl", None)
        self._blocks = []

    def remove(self) -> None:
        """Put everything back, after the gates on the blocks were removed."""
        self._release()
        for restore in reversed(self._restore):
            restore()
        self._restore = []
        if self._denoiser.__dict__.get("forward") is not self._forward:
            return  # something has wrapped it since; what is within does nothing but run the model
        if self._before is None:
            del self._denoiser.forward
        else:
            self._denoiser.forward = self._before


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
