"""Finds a block graph by tracing one forward pass of a copy without values (`twin`).

Every tensor carries a set of sources, one for each site and one for inputs that change with the step; every operation
passes on the union. When a site returns, what its value was made of are its writers, and the value becomes a source of
its own. Nothing is computed, so nothing hides: a `where` or a masked key counts as read. What is written into a tensor
reaches all that share its memory. What cannot be followed is refused: a site that runs twice, a choice by the value of
a tensor, a module that keeps a value for the next call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.graph import FRESH, STEP, BlockGraph, GraphBuilder, Origins, Site
from stepmask.inspection.sites import ends_of
from stepmask.inspection.twin import written
from stepmask.values import put_together, take_apart, tensors_in

NOTHING: Origins = frozenset()
INNERMOST = 1 << 20
"""Added to what a label says of the innermost sites alone, as if no other site had a value of its own."""
WHILE = 1 << 21
"""Added to the index of a site that contains others: its code has made this tensor, which must not leave it."""


class SitesError(UnsupportedModelError):
    """Some of the sites, named by `sites`, cannot be; others may."""

    def __init__(self, message: str, sites: Sequence[str]) -> None:
        super().__init__(message)
        self.sites = tuple(sites)


def trace(
    twin: nn.Module,
    sites: Sequence[Site],
    around: Sequence[Site],
    inputs: Mapping[str, Any],
    changing: Sequence[str],
    run: Callable[[], Any],
) -> tuple[BlockGraph | None, list[str]]:
    """Run `twin` once and return the graph of these sites, in the order in which they ran.

    Args:
        twin: A copy of the model without values; it is left with hooks.
        sites: What to watch, none of which contains another; the order does not matter.
        around: Sites that contain others, outermost first.
        inputs: Arguments of the call; those that change have no values.
        changing: Names of those that change from step to step.
        run: Runs `twin` on these inputs and returns what a sampler uses.

    Returns:
        The graph, and the names of those of `around` that cannot rest as a whole. Where there are some, there is no
        graph: trace again without them.

    Raises:
        UnsupportedModelError: The trace cannot prove who reads whom.
    """
    name = type(twin).__name__
    tracer = _Tracer(twin, around)
    for site in sites:
        tracer.watch(site)
    for site in reversed(around):  # of two that end with the same module, the inner one first
        tracer.watch_around(site)
    sources = tracer.sources
    sources.mark([inputs[name] for name in changing if name in inputs], FRESH | {INNERMOST + STEP})
    try:
        with torch.no_grad(), sources:
            output = run()
    except StepMaskError:
        raise
    except Exception as error:  # whatever a model's code may raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        reason = re.sub(r" object at 0x\w+|\.?Hint: .*", "", reason)  # to torch's own developers
        raise UnsupportedModelError(
            f"{name} cannot be traced without computing anything ({type(error).__name__}: {reason}). If the example "
            "inputs are right, its graph has to be declared: CONTRIBUTING.md shows how"
        ) from error
    idle = [site.name for site in sites if site.name not in tracer.indices]
    if idle:
        raise SitesError(
            f"{idle[0]} did not run in a forward pass of {name} on the example inputs: leave it out, or give inputs "
            "with which it runs",
            idle,
        )
    sources.check_nothing_is_kept(twin)
    return tracer.finish(output)


class _Tracer:
    """Hooks the sites of a twin, and writes down who reads whom: all of them, and the innermost alone."""

    def __init__(self, twin: nn.Module, around: Sequence[Site]) -> None:
        self.sources = _Sources()
        self.indices: dict[str, int] = {}
        """Of the sites that have run, among all."""
        self._twin, self._around = twin, around
        self._modules = dict(twin.named_modules())
        self._builder, self._inner = GraphBuilder(), GraphBuilder()
        self._made_of: dict[int, tuple[int, ...]] = {}
        self._runs_twice: set[str] = set()

    def watch(self, site: Site) -> None:
        """Let the value of an innermost site be a source of its own."""

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            if site.name in self.indices:
                raise SitesError(
                    f"{site.name} runs more than once in a forward pass of {type(self._twin).__name__}, so a step has "
                    "no single value to keep: choose other sites",
                    [site.name],
                )
            index = self.indices[site.name] = len(self.indices)
            among_all, innermost = _told_apart(self.sources.union(output))
            value = self._builder.site(site.name, site.kind, among_all, site.depth)
            alone = self._inner.site(site.name, site.kind, innermost, site.depth)
            value |= frozenset(INNERMOST + i for i in alone)
            return self.sources.as_value(output, index, lambda tensor: value)

        self._modules[site.name].register_forward_hook(after)

    def watch_around(self, site: Site) -> None:
        """Let the value of a site that contains others be a source too."""
        mark, (first, last) = self._around.index(site), ends_of(self._twin, site.name)

        def before(module: nn.Module, args: Any) -> None:
            if site.kind != "stack":
                self.sources.running.add(WHILE + mark)

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            if site.name in self.indices:
                self._runs_twice.add(site.name)
                self.sources.running.discard(WHILE + mark)
                return None
            index = self.indices[site.name] = len(self.indices)
            among_all, innermost = _told_apart(self.sources.union(output))
            self._made_of[index] = tuple(sorted(innermost - {STEP}))
            value = self._builder.site(site.name, site.kind, among_all, site.depth)

            def label(tensor: Tensor) -> Origins:
                return value | {origin for origin in self.sources.union(tensor) if INNERMOST + STEP <= origin < WHILE}

            labelled = self.sources.as_value(output, index, label)
            self.sources.running.discard(WHILE + mark)
            return labelled

        self._modules[first].register_forward_pre_hook(before)
        self._modules[last].register_forward_hook(after)

    def finish(self, output: Any) -> tuple[BlockGraph | None, list[str]]:
        """The graph, if all that contain others can rest as a whole; and the names of those that cannot."""
        value = self.sources.union(output)
        among_all, innermost = _told_apart(value)
        unfit = {site.name for site in self._around if site.name not in self.indices} | self._runs_twice
        unfit |= {self._around[mark - WHILE].name for mark in self.sources.left | {o for o in value if o >= WHILE}}
        unfit |= set(self._builder.leaking(among_all))
        if unfit:
            return None, sorted(unfit)
        inner = self._inner.finish(innermost) if self._around else None
        return self._builder.finish(among_all, self.sources.rewritten, inner=inner, made_of=self._made_of), []


def _told_apart(origins: Origins) -> tuple[Origins, Origins]:
    """What a label says among all sites, and of the innermost alone."""
    among_all = frozenset(origin for origin in origins if origin < INNERMOST + STEP)
    return among_all, frozenset(origin - INNERMOST for origin in origins if INNERMOST + STEP <= origin < WHILE)


class _Sources(TorchDispatchMode):
    """Carries `Origins` with every tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.rewritten: set[int] = set()
        """Sites whose value is written into after they returned it."""
        self.running: set[int] = set()
        """Sites that contain others and run now, as marks."""
        self.left: set[int] = set()
        """Those whose code made something that was used outside, other than their value."""
        self._written: dict[int, Origins] = {}
        self._values: dict[int, frozenset[int]] = {}
        self._alive: list[Tensor] = []  # memory that is known by its address must not be freed

    def union(self, tree: Any) -> Origins:
        """What the tensors in a tree were made of."""
        return NOTHING.union(
            *(self.of.get(t, NOTHING) | self._written.get(_memory(t), NOTHING) for t in tensors_in(tree))
        )

    def mark(self, tree: Any, value: Origins) -> None:
        """Say what the tensors in a tree were made of."""
        for tensor in tensors_in(tree):
            self.of[tensor] = value

    def as_value(self, output: Any, site: int, label: Callable[[Tensor], Origins]) -> Any:
        """A copy of what a site returned, labelled; the same tensors may have other readers.

        What is written into the copy is written into the values of all sites that hand out the same memory.
        """
        tensors, layout = take_apart(output)
        copies = [torch.empty_like(tensor) for tensor in tensors]
        for tensor, copy in zip(tensors, copies, strict=True):
            self.of[copy] = label(tensor)
            self._values[_memory(copy)] = self._values.get(_memory(tensor), NOTHING) | {site}
        self._alive += [*tensors, *copies]
        return put_together(copies, layout)

    def check_nothing_is_kept(self, twin: nn.Module) -> None:
        """Raise where a module keeps a site's value, which a later step may read."""
        for name, module in twin.named_modules():
            kept = {key: value for key, value in vars(module).items() if not key.startswith("_")}
            kept |= module._buffers
            for key, value in kept.items():
                if isinstance(value, Tensor) and self.union(value) - {STEP}:
                    raise UnsupportedModelError(
                        f"{name}.{key} of {type(twin).__name__} keeps what a site made for a later call, which no mask "
                        "can know of: choose other sites"
                    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        value = self.union((args, kwargs))
        self.left |= {origin for origin in value if origin >= WHILE} - self.running
        value |= self.running
        result = func(*args, **kwargs)
        self.mark(result, value)
        for leaf in written(func, args, kwargs):
            memory = _memory(leaf)
            self._written[memory] = self._written.get(memory, NOTHING) | value
            self._alive.append(leaf)
            if memory in self._values:
                self.rewritten |= self._values[memory]
        return result


def _memory(tensor: Tensor) -> int:
    """Identifies what a tensor and its views share."""
    return tensor.untyped_storage()._cdata
