"""How much each cell adds to the error by not computing, averaged over all probes of a search.

One probe sees few images along few directions, and the cells that look cheapest in it are those it happened to
underrate. What a cell adds depends mostly on its step, its site and how old the values are that it would hand out, so
measurements of different probes, on different noise around different tables, are averaged by these.
"""

from __future__ import annotations

import numpy as np

from stepmask.mask import Action

MAX_AGE = 12
"""Older values are counted as this old."""


def histories(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the newest and the second newest computation before each cell, (T, B) each; -1 for none."""
    newest, second = np.full(actions.shape, -1), np.full(actions.shape, -1)
    for row in range(1, len(actions)):
        computed = actions[row - 1] == Action.compute
        newest[row] = np.where(computed, row - 1, newest[row - 1])
        second[row] = np.where(computed, newest[row - 1], second[row - 1])
    return newest, second


class Sizes:
    """Running means by cell, action and ages of the values at hand.

    Args:
        shape: (T, B).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._sum = np.zeros((*shape, len(Action), MAX_AGE + 1, MAX_AGE + 1), dtype=np.float32)
        self._count = np.zeros((*shape, MAX_AGE + 1, MAX_AGE + 1), dtype=np.int32)

    def average(self, actions: np.ndarray, sizes: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Take a probe's sizes into the means, and return the means in their place.

        Args:
            actions: (T, B) table that was probed.
            sizes: (T, B, actions, n) squared size per image.
            known: (T, B) cells whose sizes were measured.

        Returns:
            (T, B, actions, n): each image's typical size times the cell's mean relative size.
        """
        if not known.any():
            return sizes
        typical = sizes[known].mean((0, 1)) + 1e-30
        rows, sites = np.nonzero(known)
        newest, second = histories(actions)
        age = np.minimum(rows - newest[rows, sites], MAX_AGE)
        apart = np.where(second[rows, sites] < 0, 0, np.minimum(newest - second, MAX_AGE)[rows, sites])
        relative = (sizes / typical).mean(-1)
        for action in Action:
            self._sum[rows, sites, action, age, apart] += relative[rows, sites, action]
        self._count[rows, sites, age, apart] += 1
        mean = self._sum[rows, sites, :, age, apart] / self._count[rows, sites, age, apart][:, None]
        result = sizes.copy()
        result[rows, sites] = mean[..., None] * typical
        return result
