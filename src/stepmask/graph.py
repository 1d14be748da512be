"""BlockGraph: the sites of a model in execution order, and who reads whom; GraphBuilder writes it down.

Sites nest by their names: a list of blocks (a stack) contains blocks, and those contain branches. A site that contains
others comes after them, for its value is made of theirs; where it does not compute, nothing within it is called.
`readers` decide what elimination may do (`stepmask.liveness`); how a graph is found is `stepmask.inspection`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

from stepmask.errors import StepMaskError
from stepmask.nesting import parents_of, within

Kind = Literal["attention", "cross_attention", "mlp", "resnet", "transformer", "sampler", "block", "stack"]
"""A block contains other sites; a stack is a list of blocks that run one after the other, whose value is the last's."""

Level = Literal["branch", "block", "stack"]
"""How coarse a rule decides: on the innermost sites, on the outermost modules around them, on the outermost sites."""

OUT = -1
"""Reader that stands for the model's output and for code that runs at every step."""


class Site(NamedTuple):
    """A place in a model whose value can be cached."""

    name: str
    """Name of the submodule, as in ``model.named_modules()``; of a stack, of the list."""
    kind: Kind
    depth: int | None = None
    """U-Net level, 0 at full resolution; None outside of U-Nets."""


def leaking(names: Sequence[str], all_readers: Sequence[Iterable[int]]) -> list[str]:
    """Names that contain others whose values are read from outside, so that they cannot rest as a whole."""
    found = []
    for outer, inside in within(names).items():
        allowed = inside | 1 << outer
        members = (i for i in range(len(names)) if inside >> i & 1)
        if any(reader == OUT or not allowed >> reader & 1 for i in members for reader in all_readers[i]):
            found.append(names[outer])
    return found


def callers(graph: BlockGraph, sites: Sequence[int] | None = None) -> list[int | None]:
    """Per site, of all or some, which of them it is called in; blocks of a list are called by what is around that."""
    sites = range(len(graph)) if sites is None else sites
    parents = parents_of([graph.sites[site].name for site in sites])

    def caller(place: int) -> int | None:
        around = parents[place]
        while around is not None and graph.sites[sites[around]].kind == "stack":
            around = parents[around]
        return around

    return [caller(place) for place in range(len(sites))]


@dataclass(frozen=True)
class BlockGraph:
    """Sites in execution order with their direct readers.

    Attributes:
        sites: B sites in the order in which one forward pass runs them.
        all_readers: Per site the sorted indices of the sites that read its value directly, `OUT` among them where
            the output or always-run code reads it.
        reads_step: Per site whether something other than sites reaches it that changes from step to step: the
            noisy sample or the timestep embedding.
        rewritten: Sites whose value the model writes into afterwards, so that it has to get copies.
        inner: The same model with the innermost sites alone; None where no site contains another. What flows through a
            site that computes is told apart there by the parts of its value.
        made_of: By site that contains others, indices in `inner` of the innermost sites whose values its own is made
            of, other than by way of another innermost site.
    """

    sites: tuple[Site, ...]
    all_readers: tuple[tuple[int, ...], ...]
    reads_step: tuple[bool, ...]
    rewritten: frozenset[int] = frozenset()
    inner: BlockGraph | None = None
    made_of: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.sites) == len(self.all_readers) == len(self.reads_step):
            raise StepMaskError("a graph needs readers and reads_step for each of its sites")
        for site, readers in enumerate(self.all_readers):
            if any(reader != OUT and not site < reader < len(self.sites) for reader in readers):
                raise StepMaskError(f"readers of {self.sites[site].name} must come after it in execution order")
        for name in leaking(self.names, self.all_readers):
            raise StepMaskError(f"{name} cannot rest as a whole: what lies within it is read from outside of it")

    @classmethod
    def chain(cls, sites: Sequence[Site]) -> BlockGraph:
        """Each site is read by the next alone, the last by the output."""
        last = len(sites) - 1
        readers = tuple((OUT,) if i == last else (i + 1,) for i in range(len(sites)))
        return cls(tuple(sites), readers, (True,) * len(sites))

    @classmethod
    def branches(cls, sites: Sequence[Site]) -> BlockGraph:
        """Each site's value is added to a residual stream that every later site and the output read."""
        count = len(sites)
        readers = tuple((OUT, *range(i + 1, count)) for i in range(count))
        return cls(tuple(sites), readers, (True,) * count)

    def __len__(self) -> int:
        """B, the number of sites."""
        return len(self.sites)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the sites, in order."""
        return tuple(site.name for site in self.sites)

    def readers(self, site: int) -> tuple[int, ...]:
        """Sites (and perhaps `OUT`) that read the value of `site` directly within one step."""
        return self.all_readers[site]

    def writers(self, site: int) -> tuple[int, ...]:
        """Sites whose values `site` reads directly within one step."""
        return self._writers[site]

    def depends_on_step(self, site: int) -> bool:
        """Whether `site` reads, other than through sites, what changes with the step."""
        return self.reads_step[site]

    @property
    def has_levels(self) -> bool:
        """Whether it is that of a U-Net, part of which can rest below full resolution."""
        return all(site.depth is not None for site in self.sites) and any(site.depth for site in self.sites)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The sites that learners and schedules decide on: all but the samplers."""
        return tuple(i for i, site in enumerate(self.sites) if site.kind != "sampler")

    @cached_property
    def within(self) -> dict[int, int]:
        """For each site that contains others: those, one bit for each, however deep; outermost sites first."""
        return within(self.names)

    @cached_property
    def innermost(self) -> BlockGraph:
        """The graph of the sites that contain no others; itself where none does."""
        if self.inner is None:
            return self
        return self.inner.rewriting(self)

    def rewriting(self, other: BlockGraph) -> BlockGraph:
        """This graph, whose model writes into the values that another graph of the same model says, of these sites."""
        names = {other.names[i] for i in other.rewritten}
        return replace(self, rewritten=frozenset(i for i, name in enumerate(self.names) if name in names))

    def level(self, level: Level) -> tuple[int, ...]:
        """The sites of one level, samplers left out: together they contain all others, and none contains another.

        Args:
            level: ``"branch"`` for the innermost sites; ``"block"`` for the outermost modules, a site that no block
                contains among them; ``"stack"`` for the outermost sites, lists of blocks where there are some.

        Raises:
            StepMaskError: There is no such level.
        """
        if level not in get_args(Level):
            raise StepMaskError(f"level must be one of {', '.join(get_args(Level))}, got {level!r}")
        if level == "branch":
            return tuple(i for i in self.blocks if i not in self.within)
        names = [site.name for site in self.sites if level == "stack" or site.kind != "stack"]
        outermost = {name for name, parent in zip(names, parents_of(names), strict=True) if parent is None}
        return tuple(i for i in self.blocks if self.sites[i].name in outermost)

    def only(self, sites: Sequence[int]) -> BlockGraph:
        """The graph of some sites: none contains another, and together they contain or are all innermost ones."""
        kept = set(sites)
        builder = GraphBuilder()
        values: dict[int, Origins] = {}
        for i, site in enumerate(self.sites):
            flowing = frozenset().union(*(values[writer] for writer in self.writers(i)))
            flowing |= FRESH if self.reads_step[i] else frozenset()
            values[i] = builder.site(site.name, site.kind, flowing, site.depth) if i in kept else flowing
        output = frozenset().union(*(values[i] for i in range(len(self)) if OUT in self.all_readers[i]))
        return builder.finish(output, [sorted(kept).index(i) for i in self.rewritten if i in kept])

    @cached_property
    def _writers(self) -> tuple[tuple[int, ...], ...]:
        writers: list[list[int]] = [[] for _ in self.sites]
        for site, readers in enumerate(self.all_readers):
            for reader in readers:
                if reader != OUT:
                    writers[reader].append(site)
        return tuple(map(tuple, writers))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the structure: names, kinds and readers of the innermost sites, no weights."""
        if self.inner is not None:
            return self.inner.fingerprint
        text = repr((tuple(map(tuple, self.sites)), self.all_readers, self.reads_step))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


STEP = -2
"""Stands in `Origins` for what changes with every step: the noisy sample or the timestep embedding."""

Origins = frozenset[int]
"""Says where a tensor comes from: indices of the sites whose values flow into it directly, perhaps `STEP`."""

FRESH: Origins = frozenset({STEP})


class GraphBuilder:
    """Collects sites in execution order while a family walks its model."""

    def __init__(self) -> None:
        self._sites: list[Site] = []
        self._readers: list[set[int]] = []
        self._reads_step: list[bool] = []

    def site(self, name: str, kind: Kind, reads: Iterable[int], depth: int | None = None) -> Origins:
        """Append a site that reads the value `reads`; returns the site's own value."""
        index = len(self._sites)
        reads = set(reads)
        for writer in reads - {STEP}:
            self._readers[writer].add(index)
        self._sites.append(Site(name, kind, depth))
        self._readers.append(set())
        self._reads_step.append(STEP in reads)
        return frozenset({index})

    def leaking(self, output: Origins) -> list[str]:
        """Names of sites that contain others whose values are read from outside, by `output` for example."""
        readers = [{*readers, OUT} if i in output else readers for i, readers in enumerate(self._readers)]
        return leaking([site.name for site in self._sites], readers)

    def finish(self, output: Origins, rewritten: Iterable[int] = (), **nesting: Any) -> BlockGraph:
        """The graph of a model whose output comes from `output`, and that writes into the values of `rewritten`.

        Where sites nest, `nesting` has `BlockGraph.inner` and `BlockGraph.made_of`.
        """
        for writer in output - {STEP}:
            self._readers[writer].add(OUT)
        readers = tuple(tuple(sorted(readers)) for readers in self._readers)
        return BlockGraph(tuple(self._sites), readers, tuple(self._reads_step), frozenset(rewritten), **nesting)
