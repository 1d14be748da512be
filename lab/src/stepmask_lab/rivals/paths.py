"""Key steps along a cheapest path, by dynamic programming. Knows no models."""

from __future__ import annotations

import numpy as np


def cheapest_path(cost: np.ndarray, count: int, first: int = 1) -> list[int]:
    """The key steps whose path through the run costs least.

    Args:
        cost: (T, T, T + 1): ``[i, j, k]`` is what it costs to go from key step j to key step k, when i was the key step
            before j; T is the end of the run. Before the first key step there is none, and i is 0.
        count: Number of key steps.
        first: The steps up to here, at least one, are key steps in any case.
    """
    num_rows = len(cost)
    first = min(first, count)
    best = np.full((num_rows, num_rows), np.inf)  # of paths whose last two key steps are these
    best[max(first - 2, 0), first - 1] = 0.0
    came_from = []
    for _ in range(count - first):
        through = best[:, :, None] + cost[:, :, :num_rows]
        came_from.append(through.argmin(0))
        best = through.min(0)
    before, last = np.unravel_index((best + cost[:, :, num_rows]).argmin(), best.shape)
    path = [int(last)]
    for earlier in reversed(came_from):
        path.append(int(before))
        before, last = earlier[before, last], before
    return [*range(first - 1), *reversed(path)]
