"""BlockGraph: the sites of a model in execution order, and who reads whom; GraphBuilder writes it down.

`readers` alone decide what elimination may do (`stepmask.liveness`); how a graph is found is `stepmask.architectures`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from stepmask.errors import StepMaskError

Kind = Literal["attention", "cross_attention", "mlp", "resnet", "transformer", "sampler"]

OUT = -1
"""Reader that stands for the model's output and for code that runs at every step."""


class Site(NamedTuple):
    """A place in a model whose value can be cached."""

    name: str
    """Name of the submodule, as in ``model.named_modules()``."""
    kind: Kind
    depth: int | None = None
    """U-Net level, 0 at full resolution; None outside of U-Nets."""


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
    """

    sites: tuple[Site, ...]
    all_readers: tuple[tuple[int, ...], ...]
    reads_step: tuple[bool, ...]
    rewritten: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not len(self.sites) == len(self.all_readers) == len(self.reads_step):
            raise StepMaskError("a graph needs readers and reads_step for each of its sites")
        for site, readers in enumerate(self.all_readers):
            if any(reader != OUT and not site < reader < len(self.sites) for reader in readers):
                raise StepMaskError(f"readers of {self.sites[site].name} must come after it in execution order")

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

    @property
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
    def blocks(self) -> tuple[int, ...]:
        """The sites that learners and schedules decide on: all but the samplers."""
        return tuple(i for i, site in enumerate(self.sites) if site.kind != "sampler")

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
        """Hash of the structure: names, kinds and readers, no weights."""
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

    def finish(self, output: Origins, rewritten: Iterable[int] = ()) -> BlockGraph:
        """The graph of a model whose output comes from `output`, and that writes into the values of `rewritten`."""
        for writer in output - {STEP}:
            self._readers[writer].add(OUT)
        readers = tuple(tuple(sorted(readers)) for readers in self._readers)
        return BlockGraph(tuple(self._sites), readers, tuple(self._reads_step), frozenset(rewritten))
