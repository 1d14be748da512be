"""GraphBuilder: write a model's data flow once, get its `BlockGraph`."""

from __future__ import annotations

from collections.abc import Iterable

from stepmask.graph import OUT, BlockGraph, Kind, Site

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
