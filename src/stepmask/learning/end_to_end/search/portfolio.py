"""The tables that a search starts from: the full run, every regular schedule, and key steps that suit the budget.

Holding and forecasting. `moved_steps` are the neighbours of a choice of key steps, for climbing from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from stepmask.graph import BlockGraph
from stepmask.mask import Action, StepMask
from stepmask.schedules import deepcache, fora, key_steps
from stepmask.schedules.key_steps import shallow_step, spaced

MAX_INTERVAL = 7
"""The longest interval of the regular schedules; beyond, too little is computed to be of use."""

SPACINGS = ((1.0, 1.0), (1.1, 1.0), (1.2, 1.0), (1.35, 1.0), (1.0, 0.5), (1.2, 0.5))
"""How much denser key steps are at the beginning, and how long the end after the last one is, as a share."""


def portfolio(graph: BlockGraph, timesteps: Sequence[float], allowed: Sequence[Action]) -> Iterator[StepMask]:
    """All-compute; FORA, and on U-Nets DeepCache at each depth, at every interval that makes another mask."""
    yield fora(graph, timesteps, 1)
    for forecast in _forecasts(allowed):
        for interval in range(2, min(len(timesteps), MAX_INTERVAL) + 1):
            yield fora(graph, timesteps, interval, forecast=forecast)
            if graph.has_levels:
                for depth in range(1, max(site.depth for site in graph.sites) + 1):
                    yield deepcache(graph, timesteps, interval, depth, forecast=forecast)


def coarse_steps(
    graph: BlockGraph,
    timesteps: Sequence[float],
    allowed: Sequence[Action],
    target: float,
    cost: Callable[[StepMask], float],
    stretches: Sequence[tuple[int, int]] = (),
    shallow: bool = False,
) -> Iterator[StepMask]:
    """As many key steps of all blocks together as cost at most `target`, spaced in several ways.

    Args:
        graph: The sites.
        timesteps: The run.
        allowed: What cells may do.
        target: The budget.
        cost: What counts of a mask, in the unit of the target.
        stretches: First row, and the row after the last, of the stretches that begin with a key step; one if empty.
        shallow: Whether a shallow step follows soon after the first; nothing outside of U-Nets, or without room for it.
    """
    if shallow and not graph.has_levels:
        return
    num_rows = len(timesteps)
    stretches = stretches or [(0, num_rows)]
    least, forecast = len(stretches), "linear" if Action.linear in allowed else None

    def spread(count: int, power: float = 1.0, last: float = 1.0, early: Sequence[int] = ()) -> StepMask:
        return key_steps(graph, timesteps, _spaced_in(stretches, count, power, last), forecast=forecast, shallow=early)

    fewest, all_of_them = (cost(spread(count)) for count in (least, num_rows))
    each = (all_of_them - fewest) / max(num_rows - least, 1)
    most = least + int((target - fewest) / each + 1e-6) if each > 0 else num_rows
    for spacing in SPACINGS:
        for count in range(min(max(least, most), num_rows), least - 1, -1):
            mask = spread(count, *spacing)
            if shallow:
                early = shallow_step(mask.provenance["steps"])
                if early is None:
                    break
                mask = spread(count, *spacing, [early])
            if count == least or cost(mask) <= target + 1e-6:  # the first and the last step may cost more, or less
                yield mask
                break


def _spaced_in(stretches: Sequence[tuple[int, int]], count: int, power: float, last: float) -> list[int]:
    """So many steps, in each stretch as its length has it and at least one, spaced as if it were alone.

    Only the run's own end comes sooner after a key step: the next stretch begins with one.
    """
    lengths = [end - first for first, end in stretches]
    counts = [1] * len(stretches)
    for _ in range(count - len(stretches)):  # each to the stretch whose steps lie farthest apart
        counts[max(range(len(counts)), key=lambda i: lengths[i] / counts[i])] += 1
    lasts = [1.0] * (len(stretches) - 1) + [last]
    found = zip(stretches, lengths, counts, lasts, strict=True)
    return [first + step for (first, _), *spacing, end in found for step in spaced(*spacing, power, end)]


def spacings_of(steps: Sequence[int], num_rows: int) -> set[tuple[float, float]]:
    """Of `SPACINGS` those by which `coarse_steps` spaces such steps."""
    return {spacing for spacing in SPACINGS if spaced(num_rows, len(steps), *spacing) == list(steps)}


def moved_steps(steps: Sequence[int], num_rows: int, seed: int) -> Iterator[list[int]]:
    """Key steps of which one, or one and all later ones, come one step earlier or later; in random order."""
    last = len(steps)
    moves = [(first, end, by) for first in range(1, last) for end in {first + 1, last} for by in (-1, 1)]
    for index in np.random.default_rng(seed).permutation(len(moves)):
        first, end, by = moves[index]
        moved = [step + by if first <= i < end else step for i, step in enumerate(steps)]
        if moved[-1] < num_rows and all(a < b for a, b in pairwise(moved)):
            yield moved


def _forecasts(allowed: Sequence[Action]) -> tuple:
    return ("linear", None) if Action.linear in allowed else (None,)
