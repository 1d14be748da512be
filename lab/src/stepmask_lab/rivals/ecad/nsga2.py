"""NSGA-II (Deb et al. 2002) on strings of bits, every objective to be made small. Knows nothing of masks."""

from __future__ import annotations

import numpy as np

POINTS = 4
"""At which two parents are crossed."""


def ranks(objectives: np.ndarray) -> np.ndarray:
    """(N,) number of the front that each point is in; 0 for those that no other point dominates.

    Args:
        objectives: (N, K), finite.
    """
    no_worse = (objectives[:, None] <= objectives[None]).all(-1)
    dominates = no_worse & ~no_worse.T
    result = np.full(len(objectives), -1)
    front = 0
    while (result < 0).any():
        left = result < 0
        result[left & ~dominates[left].any(0)] = front
        front += 1
    return result


def crowding(objectives: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(N,) distance of each point to its neighbours in its front; infinite at the ends.

    Args:
        objectives: (N, K).
        rank: (N,) as `ranks` gives them.
    """
    distance = np.zeros(len(objectives))
    for front in np.unique(rank):
        members = np.flatnonzero(rank == front)
        for values in objectives[members].T:
            order = members[np.argsort(values, kind="stable")]
            values = np.sort(values)
            distance[order[[0, -1]]] = np.inf
            span = values[-1] - values[0]
            if span > 0:
                distance[order[1:-1]] += (values[2:] - values[:-2]) / span
    return distance


def survivors(objectives: np.ndarray, size: int) -> np.ndarray:
    """Indices of the best `size` points: by front, and within one the least crowded first."""
    rank = ranks(objectives)
    return np.lexsort((-crowding(objectives, rank), rank))[:size]


def children(
    parents: np.ndarray,
    objectives: np.ndarray,
    generator: np.random.Generator,
    crossover_rate: float,
    mutation_rate: float,
) -> np.ndarray:
    """As many children as parents, by binary tournaments, crossover and mutation.

    Args:
        parents: (N, genes) bool.
        objectives: (N, K) of the parents.
        generator: Source of randomness.
        crossover_rate: Chance of a child to come from two parents.
        mutation_rate: Chance of each gene to flip.
    """
    count, genes = parents.shape
    rank = ranks(objectives)
    place = np.empty(count, dtype=int)
    place[np.lexsort((-crowding(objectives, rank), rank))] = np.arange(count)

    def winners() -> np.ndarray:
        pairs = generator.integers(count, size=(count, 2))
        return parents[np.where(place[pairs[:, 0]] <= place[pairs[:, 1]], pairs[:, 0], pairs[:, 1])]

    one, other = winners(), winners()
    cuts = np.sort(generator.integers(1, max(genes, 2), size=(count, POINTS)), axis=1)
    from_other = (np.arange(genes)[None, :, None] >= cuts[:, None]).sum(-1) % 2 == 1
    from_other &= generator.random((count, 1)) < crossover_rate
    flips = generator.random((count, genes)) < mutation_rate
    return np.where(from_other, other, one) ^ flips
