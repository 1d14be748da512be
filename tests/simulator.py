"""A slow, obvious model of what a run computes: values are symbols, so equal outputs mean equal computations.

A value is a tuple (site, step or None, values of what it reads), or step and values with theirs for a forecast.
Nothing of stepmask's own logic is used.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from stepmask.graph import OUT, BlockGraph
from stepmask.liveness import Plan, State
from stepmask.mask import Action

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

    def forecast(self, step: int, known: list[tuple[int, object]]) -> int:
        """A forecast from values, each with its step. No two are the same, were all their values."""
        return self._intern(("forecast", step, *known))

    def output(self, step: int, now: dict[int, object]) -> int:
        read = tuple(now[site] for site in range(len(self.graph)) if OUT in self.graph.readers(site))
        return self._intern(("output", step, read))


def run_table(symbols: Symbols, actions: np.ndarray, num_values: Mapping[int, int] | None = None) -> list[int]:
    """Outputs of a run that acts exactly as the table says, and remembers every value for ever.

    Forecasts read two values, or as many as `num_values` says by site.
    """
    computed: list[list[tuple[int, object]]] = [[] for _ in range(len(symbols.graph))]
    outputs = []
    for step, row in enumerate(np.asarray(actions)):
        now: dict[int, object] = {}
        for site, action in enumerate(row.tolist()):
            values = computed[site]
            if action == Action.compute:
                values.append((step, symbols.value(site, step, now)))
            if not values:
                now[site] = POISON
            elif action == Action.linear and len(values) > 1:
                now[site] = symbols.forecast(step, values[: -(num_values or {}).get(site, 2) - 1 : -1])
            else:
                now[site] = values[-1][1]
        outputs.append(symbols.output(step, now))
    return outputs


def run_plan(symbols: Symbols, plan: Plan, poisoned: Iterable[tuple[int, int]] = ()) -> list[int]:
    """Outputs of a run that follows a plan to the letter, with a cache that holds what the plan keeps, no longer.

    Dead values are poison. Fails where the plan reads what is not there, keeps a value that is never read again, or
    counts more values than there are.
    """
    poisoned = set(poisoned)
    cache: dict[int, list[tuple[int, object]]] = {site: [] for site in range(len(symbols.graph))}
    outputs = []
    for step in range(plan.num_rows):
        now: dict[int, object] = {}
        for site, values in cache.items():
            state, read = plan.states[step, site], 0
            if state == State.compute:
                now[site] = POISON if (step, site) in poisoned else symbols.value(site, step, now)
                values.insert(0, (step, now[site]))
                read = 1
            elif state == State.reuse:
                now[site], read = values[0][1], 1
            elif state == State.forecast:
                read = plan.weights[site].shape[1] if site in plan.weights else 2
                now[site] = symbols.forecast(step, values[:read])
                assert len(values) > 1, f"row {step}, site {site}: a forecast finds {len(values)} values"
            else:
                now[site] = POISON
            keep = int(plan.keep[step, site])
            assert keep <= len(values), f"row {step}, site {site}: the plan keeps {keep} of {len(values)} values"
            while len(values) > keep:
                assert len(values) <= read, f"row {step}, site {site}: a value was kept past its last read"
                values.pop()
        outputs.append(symbols.output(step, now))
    left = [site for site, values in cache.items() if values]
    assert not left, f"values of sites {left} are left over"
    return outputs
