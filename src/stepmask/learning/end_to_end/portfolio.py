"""The tables that a search starts from: the full run and every regular schedule, holding and forecasting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stepmask.graph import BlockGraph
from stepmask.mask import Action, StepMask
from stepmask.schedules import deepcache, fora

MAX_INTERVAL = 7
"""Of the regular schedules; beyond, too little is computed to be of use."""


def portfolio(graph: BlockGraph, timesteps: Sequence[float], allowed: Sequence[Action]) -> Iterator[StepMask]:
    """All-compute; FORA, and on U-Nets DeepCache at each depth, at every interval that makes another mask.

    Args:
        graph: Of the model.
        timesteps: T timesteps of the run.
        allowed: Actions that cells may take.
    """
    yield fora(graph, timesteps, 1)
    levels = [site.depth for site in graph.sites]
    for forecast in ("linear", None) if Action.linear in allowed else (None,):
        for interval in range(2, min(len(timesteps), MAX_INTERVAL) + 1):
            yield fora(graph, timesteps, interval, forecast=forecast)
            if None not in levels:
                for depth in range(1, max(levels) + 1):
                    yield deepcache(graph, timesteps, interval, depth, forecast=forecast)
