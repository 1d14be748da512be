"""A slow, obvious model of what a run computes: values are symbols, so equal outputs mean equal computations.

A value is a tuple (site, step or None, values of what it reads). Nothing of stepmask's own logic is used.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stepmask.graph import OUT, BlockGraph
from stepmask.liveness import Plan, State

POISON = "poison"


def writers_of(graph: BlockGraph, site: int) -> list[int]:
    return [writer for writer in range(len(graph)) if site in graph.readers(writer)]


class Symbols:
    """Interns values, so that comparing deep ones is quick."""

    def __init__(self, graph: BlockGraph) -> None:
        self.graph, self._known = graph, {}

    def _intern(self, value: tuple) -> int:
        return self._known.setdefault(value, len(self._known))

    def value(self, site: int, step: int, now: dict[int, object]) -> int:
        read = tuple(now[writer] for writer in writers_of(self.graph, site))
        return self._intern((site, step if self.graph.depends_on_step(site) else None, read))

    def output(self, step: int, now: dict[int, object]) -> int:
        read = tuple(now[site] for site in range(len(self.graph)) if OUT in self.graph.readers(site))
        return self._intern(("output", step, read))


def run_table(symbols: Symbols, table: np.ndarray, poisoned: tuple[int, int] | None = None) -> list[int]:
    """Outputs of a run that computes exactly where the table says, and caches everything for ever."""
    cache, outputs = {}, []
    for step, row in enumerate(table):
        for site in range(len(symbols.graph)):
            if row[site]:
                cache[site] = symbols.value(site, step, cache)
            if poisoned == (step, site):
                cache[site] = POISON
        outputs.append(symbols.output(step, cache))
    return outputs


def run_plan(symbols: Symbols, plan: Plan, poisoned: Iterable[tuple[int, int]] = ()) -> list[int]:
    """Outputs of a run that follows a plan to the letter, with a cache that holds what the plan stores, no longer.

    Dead values are poison. Fails where the plan stores what nobody reads, reads what is not there, or leaves a rest.
    """
    poisoned = set(poisoned)
    cache: dict[int, object] = {}
    unread: set[int] = set()
    outputs = []
    for step in range(plan.num_rows):
        now: dict[int, object] = {}
        for site in range(len(symbols.graph)):
            state = plan.states[step, site]
            if state == State.compute:
                now[site] = POISON if (step, site) in poisoned else symbols.value(site, step, now)
                if plan.store[step, site]:
                    assert site not in cache, f"row {step}: the old value of site {site} was kept past its last read"
                    cache[site] = now[site]
                    unread.add(site)
            elif state == State.reuse:
                now[site] = cache[site]
                unread.discard(site)
                if plan.free[step, site]:
                    del cache[site]
            else:
                now[site] = POISON
            assert not (plan.store[step, site] and state != State.compute)
            assert not (plan.free[step, site] and state != State.reuse)
        outputs.append(symbols.output(step, now))
    assert not cache and not unread, f"values of sites {sorted(cache)} are left over, {sorted(unread)} were never read"
    return outputs
