"""Which rows of a mask a run with other timesteps takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from stepmask.errors import StepMaskError


def places_among(timesteps: Sequence[float], rows: int | Iterable[float]) -> tuple[np.ndarray, np.ndarray]:
    """Where new rows lie among the old ones.

    Args:
        timesteps: T values, of the old rows.
        rows: The timesteps of the new rows; or their number, which spreads them evenly over the old rows.

    Returns:
        The new timesteps, and their places, 0 to T - 1, in fractions.

    Raises:
        StepMaskError: There are no new rows.
    """
    old = np.asarray(timesteps, dtype=float)
    if isinstance(rows, int):
        if rows < 1:
            raise StepMaskError(f"a mask needs at least one row, got {rows}")
        places = np.minimum(np.arange(rows) * (len(old) / rows), len(old) - 1)
        return np.interp(places, np.arange(len(old)), old), places
    new = np.asarray([float(t) for t in rows])
    if not len(new):
        raise StepMaskError("a mask needs at least one row, got no timesteps")
    if np.array_equal(new, old):  # some timesteps may be there twice
        return new, np.arange(len(old), dtype=float)
    order = np.argsort(old, kind="stable")
    return new, np.interp(new, old[order], order.astype(float))


def rows_taken(compute: np.ndarray, places: np.ndarray) -> list[int]:
    """For each new row the old row to take, so that the computes of each site add up as they did.

    Args:
        compute: (T, B) of the old rows.
        places: Where the new rows lie among the old ones, 0 to T - 1, in fractions.
    """
    last = len(compute) - 1
    share = compute.astype(float)
    if len(places) > len(compute) > 1:  # what took turns at a rate may do so at another
        padded = np.pad(share, ((1, 1), (0, 0)), mode="edge")
        share = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    total = np.vstack([np.zeros(share.shape[1]), np.cumsum(share, axis=0)])  # at the edges of old rows
    middles = (places[1:] + places[:-1]) / 2
    edges = np.clip(np.concatenate([places[:1] - 0.5, middles, places[-1:] + 0.5]) + 0.5, 0, last + 1)
    lower = np.minimum(edges.astype(int), last)
    reached = total[lower] + (edges - lower)[:, None] * (total[lower + 1] - total[lower])
    widths = np.maximum(np.diff(edges), 1e-9)[:, None]
    wanted = np.cumsum(np.diff(reached, axis=0) / widths, axis=0)
    sources, done = [], np.zeros(share.shape[1])
    for place, goal in zip(places, wanted, strict=True):
        around = range(max(0, int(np.floor(place)) - 1), min(last, int(np.ceil(place)) + 1) + 1)
        error = [np.square(done + compute[row] - goal).sum() + 1e-6 * abs(row - place) for row in around]
        sources.append(around[int(np.argmin(error))])
        done = done + compute[sources[-1]]
    return sources
