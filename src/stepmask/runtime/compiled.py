"""Compiled modules with sites within: each row of such a module is one graph.

What torch.compile has traced is replayed, so no gate within it can decide anew at every step. A `Region` writes down
before each call which sites within run and what the others hand out; the gates within only read that, and are traced
with what is around them. Which sites run is a guard, so every row of the module that differs is a graph of its own,
and modules of one class share it. Cached values are inputs and outputs; forecasts are made outside.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from math import nan
from typing import Any, NamedTuple

import torch
import torch._inductor.config
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizeContext, innermost_backend
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from stepmask.gate import Controller, Passage, copied
from stepmask.graph import BlockGraph, callers
from stepmask.inspection.sites import ends_of
from stepmask.runtime.cache import Cache
from stepmask.runtime.policies import Policy, RunPlan
from stepmask.values import Value, tensors_in

MOST_SITES = 4
"""Where stepmask chooses what to compile, a block holds so many of the innermost sites at most: its rows are as many
as ways to choose among them."""

MOST_ROWS = 8
"""A denoiser that is compiled as a whole is one graph for each distinct row of a mask, if that has so many at most."""


class Like(NamedTuple):
    """What a tensor is without its numbers: known where it is traced, so that it is no output of a graph."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def stand_in(self) -> Tensor:
        """A tensor of this kind that nothing may read, with no memory of its own."""
        return torch.full((), nan, dtype=self.dtype, device=self.device).expand(self.shape)


class Region:
    """A compiled module, and what the sites within it do in the call that is being made.

    Args:
        module: The module.
        sites: Indices of the sites within it, in the graph's order.
        graph: The graph.
        by: What has compiled it.
        plain: Calls it uncompiled.
        is_whole: Whether it is the denoiser itself: no graph is shared then, and only what is kept is handed out.
    """

    def __init__(
        self,
        module: nn.Module,
        sites: Sequence[int],
        graph: BlockGraph,
        by: OptimizeContext | None,
        plain: Callable[..., Value],
        is_whole: bool = False,
    ) -> None:
        self.module, self._sites, self._plain, self._is_whole = module, tuple(sites), plain, is_whole
        self._around = callers(graph, self._sites)
        """Per place that of the site whose call it runs in."""
        self._keeps_memory = replays_cuda_graphs(by)
        self._rows: dict[tuple[RunPlan, int], tuple[list[bool], list[bool]]] = {}
        self.is_traced = False
        """Whether the module is being called as it was compiled."""
        self._rest()

    @property
    def num_sites(self) -> int:
        """How many sites lie within."""
        return len(self._sites)

    def _rest(self) -> None:
        count = self.num_sites
        self.is_called, self.runs, self.given = [True] * count, [True] * count, [None] * count
        self.hands_out = [not self._is_whole] * count
        self.found: list[tuple[int, Value]] = []

    def row(self, policy: RunPlan, step: int) -> tuple[list[bool], list[bool]]:
        """Per site within, whether it is called and whether its value is computed: what a graph is made for."""
        if (policy, step) not in self._rows:
            self._rows[policy, step] = self._row(policy, step)
        return self._rows[policy, step]

    def _row(self, policy: RunPlan, step: int) -> tuple[list[bool], list[bool]]:
        called, runs, asked = [], [], policy.asks(step)
        for site in self._sites:
            called.append(not asked[site] or policy.calls(step, site))
            runs.append(not asked[site] or policy.runs(step, site))
        for place in reversed(range(len(self._sites))):  # a site comes after those that it contains
            around = self._around[place]
            if around is not None and not called[around]:
                called[place] = runs[place] = False
        return called, runs

    @property
    def key(self) -> Hashable:
        """Says which row is prepared."""
        return tuple(self.is_called), tuple(self.runs), tuple(self.hands_out)

    def rows(self, policy: RunPlan) -> set[Hashable]:
        """All rows of a plan, with the class of the module."""
        found = set()
        for step in range(policy.plan.num_rows):
            called, runs = self.row(policy, step)
            found.add((type(self.module), tuple(called), tuple(runs)))
        return found

    def gate(self, site: int, control: Controller, rewritten: bool) -> Controller:
        """The controller of a site within: `control` where nothing is traced, else what was written down."""
        place = self._sites.index(site)

        def within(compute: Callable[..., Value], args: tuple, kwargs: dict) -> Value:
            if not self.is_traced:
                return control(compute, args, kwargs)
            value = compute() if self.is_called[place] else None
            if self.runs[place]:
                self.found.append((place, value if self.hands_out[place] else _likeness(value)))
            else:
                self.found.append((place, None))
                value = self.given[place]
            return _copied_in_a_graph(value) if rewritten else value

        return within

    def control(self, current: Callable[[], Any], passage: Passage) -> Controller:
        """The controller of the module itself.

        Args:
            current: Returns the stream that runs; None where the module is called on its own.
            passage: Of the call by all sites.
        """

        def around(compute: Callable[..., Value], args: tuple, kwargs: dict) -> Value:
            stream = current()
            if stream is not None and not isinstance(stream.policy, RunPlan):  # it decides as it goes
                return self._plain(*args, **kwargs)
            self.is_traced = True
            try:
                if stream is None:
                    return compute()
                self._prepare(stream.policy, stream.row - stream.start, stream.cache)
                value = compute()
                for place, _ in self.found:
                    passage.passed |= 1 << self._sites[place]
                self._keep(stream.policy, stream.row - stream.start, passage.asks, stream.cache)
                return value
            finally:
                self.is_traced = False
                self._rest()

        return around

    def _prepare(self, policy: RunPlan, step: int, cache: Cache) -> None:
        """Write down what the sites within do, and hand out."""
        self.is_called, self.runs = self.row(policy, step)
        if self._is_whole:
            self.hands_out = [site in policy.kept for site in self._sites]
        for place, site in enumerate(self._sites):
            around = self._around[place]
            if not self.runs[place] and (around is None or self.is_called[around]):
                given = policy(step, site, _nothing, cache)
                self.given[place] = given if self._is_whole else dense(given)

    def _keep(self, policy: Policy, step: int, asked: Sequence[bool], cache: Cache) -> None:
        """Let the policy keep what the sites within have computed; it refuses one that has run twice."""
        seen: set[int] = set()
        for place, made in self.found:
            site = self._sites[place]
            if asked[site] and (self.runs[place] or place in seen):
                if not self.hands_out[place]:
                    made = _stand_in(made)
                elif self._keeps_memory:
                    made = copied(made)
                policy(step, site, lambda made=made: made, cache)
            seen.add(place)


class RecompileLimit:
    """How many graphs torch.compile makes of one function: as many as without a mask, for each row of a block.

    Args:
        regions: What is compiled.
    """

    def __init__(self, regions: Iterable[Region]) -> None:
        self._times = max((2 ** min(region.num_sites, MOST_SITES) for region in regions), default=1)
        self._before: int | None = None

    def raised(self) -> None:
        """Raise it for a call."""
        if self._times > 1 and self._before is None:
            config = torch._dynamo.config
            self._before = config.recompile_limit
            config.recompile_limit = self._before * self._times

    def restore(self) -> None:
        """Put it back after the call."""
        if self._before is not None:
            torch._dynamo.config.recompile_limit, self._before = self._before, None


def _copied_in_a_graph(value: Value) -> Value:
    """As `copied`, without the identities of tensors as numbers: in a graph they would be guards."""
    leaves, layout = tree_flatten(value)
    made: list[tuple[Tensor, Tensor]] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and not any(leaf is original for original, _ in made):
            made.append((leaf, leaf.clone()))
    copies = [next((copy for original, copy in made if original is leaf), leaf) for leaf in leaves]
    return tree_unflatten(copies, layout)


def _likeness(value: Value) -> Any:
    """The value with a `Like` in the place of each tensor."""
    return tree_map(lambda leaf: Like(leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf, value)


def _stand_in(likeness: Any) -> Value:
    """A value of this kind that nothing may read."""

    def is_like(leaf: Any) -> bool:
        return isinstance(leaf, Like)

    return tree_map(lambda leaf: leaf.stand_in() if is_like(leaf) else leaf, likeness, is_leaf=is_like)


def _nothing() -> None:
    """Stands for a computation that is part of a graph."""


def dense(value: Value) -> Value:
    """The value with its own memory: what stands in for a dead one has none, and would need another graph."""
    expanded = any(0 in tensor.stride() and tensor.numel() > 1 for tensor in tensors_in(value))
    return copied(value) if expanded else value


def is_compiled(module: nn.Module) -> bool:
    """Whether a module was compiled in place; a list of modules is never called, so that this does nothing."""
    return module._compiled_call_impl is not None and not isinstance(module, nn.ModuleList | nn.ModuleDict)


def context_of(compiled: Any) -> OptimizeContext | None:
    """What has compiled a function, with its options; None where it is not compiled."""
    cells = [cell.cell_contents for cell in getattr(compiled, "__closure__", None) or ()]
    return next((content for content in cells if isinstance(content, OptimizeContext)), None)


def replays_cuda_graphs(by: OptimizeContext | None) -> bool:
    """Whether what a module returns that was compiled so lies where its next call writes."""
    if by is None:
        return False
    backend = innermost_backend(by.callback)
    backend = getattr(backend, "compiler_fn", backend)
    asked = getattr(backend, "config", {}).get("triton.cudagraphs", torch._inductor.config.triton.cudagraphs)
    return asked or getattr(backend, "compiler_name", None) == "cudagraphs"


def compiled_around(denoiser: nn.Module, graph: BlockGraph) -> dict[int, str]:
    """By site the name of the outermost compiled submodule strictly within which it lies."""
    found = {}
    for index, site in enumerate(graph.sites):
        names = path_to(ends_of(denoiser, site.name)[1])
        around = next((name for name in names if is_compiled(denoiser.get_submodule(name))), None)
        if around is not None:
            found[index] = around
    return found


def regions_of(
    denoiser: nn.Module, graph: BlockGraph, around: Mapping[int, str], acting: Set[int]
) -> dict[str, Region]:
    """By name the compiled submodules of those classes in which a site acts.

    In others all within computes, which is one graph, that of the module without a mask.

    Args:
        denoiser: The model.
        graph: Its sites.
        around: What `compiled_around` says.
        acting: The sites that ever do anything but compute.
    """
    modules = {name: denoiser.get_submodule(name) for name in around.values()}
    classes = {type(modules[name]) for site, name in around.items() if site in acting}
    found = {}
    for name, module in modules.items():
        if type(module) in classes:
            sites = [site for site, other in around.items() if other == name]
            found[name] = Region(module, sites, graph, context_of(module._compiled_call_impl), module._call_impl)
    return found


def path_to(name: str) -> Iterator[str]:
    """Names of what contains a submodule, outermost first."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        yield ".".join(parts[:end])
