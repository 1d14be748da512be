"""Masks that cost just what a target allows, chosen by what each cell is worth: for ways to learn by scores.

The cost of a plan is stepwise and not monotone in the mask, so every step here measures the plan.
"""

from __future__ import annotations

import heapq

import numpy as np

from stepmask.learning.budget import TOLERANCE, Budget
from stepmask.learning.live_plan import LivePlan
from stepmask.liveness import Elimination, rows_of, table_of
from stepmask.mask import Action

ATTEMPTS = 8
"""So many cells are tried that cost too much by themselves."""


def meet_target(budget: Budget, compute: np.ndarray, benefit: np.ndarray, target: float) -> np.ndarray:
    """Flip the least harmful cells until the plan costs at most `target`, and no less than needed.

    Args:
        budget: Costs of plans.
        compute: (T, B) bool.
        benefit: (T, B), how much computing a cell is worth; larger is better.
        target: Share of the full run.

    Returns:
        (T, B) bool whose plan costs at most `target`; within `TOLERANCE` of it, or one cell.
    """
    if abs(budget.cost(rows_of(compute)) - target) > 3 * TOLERANCE:
        compute = _threshold(budget, benefit, target)
    exchange = _Exchange(budget, benefit, target)
    rows = exchange.shrink(rows_of(compute), benefit)
    rows = exchange.fill(exchange.grow(rows))
    before = None
    while rows != before:  # a cell that computes can make room for another
        before = rows
        rows = exchange.grow(rows, thorough=True)
    return table_of(rows, len(budget.graph))


def _threshold(budget: Budget, benefit: np.ndarray, target: float) -> np.ndarray:
    """Compute the most beneficial cells, as many as the target allows (bisection: nearly monotone)."""
    blocks = list(budget.graph.blocks)
    levels = np.sort(benefit[1:, blocks], axis=None)

    def table(level: float) -> np.ndarray:
        compute = np.ones(benefit.shape, dtype=bool)
        compute[1:, blocks] = benefit[1:, blocks] >= level
        return compute

    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if budget.cost(rows_of(table(levels[middle]))) > target:
            low = middle + 1
        else:
            high = middle
    return table(levels[high])


class _Exchange:
    """Changes cell by cell; masks are rows of integers, as `rows_of` makes them."""

    def __init__(self, budget: Budget, benefit: np.ndarray, target: float) -> None:
        self._budget, self._benefit, self._target = budget, benefit, target
        self._blocks, self._elimination = budget.graph.blocks, Elimination(budget.graph)

    def shrink(self, rows: list[int], benefit: np.ndarray) -> list[int]:
        """Hold cells, least benefit per saved cost first, while the plan costs too much.

        Lazy greedy: the saving of a cell is measured again when its turn comes, and it waits if others are better now.
        """
        live = self._live(rows)
        while self._costs_too_much(live):
            queue = []
            for step, site in self._cells(live.rows, computing=True):
                saved = -live.change(step, site, Action.hold)
                if saved > 1e-9:
                    heapq.heappush(queue, (max(benefit[step, site], 0.0) / saved, -saved, step, site))
            if not queue:  # no single cell saves anything
                self._hold_least_step(live, benefit)
                continue
            patience = len(queue) // 4 + 1  # then all are measured anew: dead cells may have come alive
            while queue and patience and self._costs_too_much(live):
                _, _, step, site = heapq.heappop(queue)
                saved = -live.change(step, site, Action.hold)
                if saved <= 1e-9:
                    continue
                entry = (max(benefit[step, site], 0.0) / saved, -saved, step, site)
                if queue and entry > queue[0]:
                    heapq.heappush(queue, entry)
                    continue
                live.switch(step, site, Action.hold)
                patience -= 1
        return live.rows

    def _hold_least_step(self, live: LivePlan, benefit: np.ndarray) -> None:
        """Hold all blocks of the step that is worth least."""
        computing = {step for step, _ in self._cells(live.rows, computing=True)}
        least = min(sorted(computing), key=lambda step: benefit[step].sum())
        for site in self._blocks:
            live.switch(least, site, Action.hold)

    def grow(self, rows: list[int], thorough: bool = False) -> list[int]:
        """Compute more cells, most benefit per own cost first, while the plan stays within the target."""
        live, cost = self._live(rows), self._budget.cost(rows)
        rate = self._benefit / np.maximum(self._budget.site_share, 1e-12)
        for step, site in sorted(self._cells(rows, computing=False), key=lambda cell: -rate[cell]):
            if cost >= self._target - TOLERANCE / 8:
                break
            change = 0.0 if thorough else live.change(step, site, Action.compute)
            if cost + 0.5 * change > self._target:  # a guess: the exact cost decides
                continue
            live.switch(step, site, Action.compute)
            if self._costs_too_much(live):
                live.switch(step, site, Action.hold)
            else:
                cost = self._budget.cost(live.rows)
        return live.rows

    def fill(self, rows: list[int]) -> list[int]:
        """Use what single cells cannot: let one compute that costs too much, and hold others until it fits."""
        cost = self._budget.cost(rows)
        held = sorted(self._cells(rows, computing=False), key=lambda cell: -self._benefit[cell])
        for step, site in held[:ATTEMPTS]:
            if cost >= self._target - TOLERANCE / 2:
                break
            locked = self._benefit.copy()
            locked[step, site] = np.inf
            other = self.shrink([*rows[:step], rows[step] | 1 << site, *rows[step + 1 :]], locked)
            lost = sum(self._benefit[at, of] for at, of in self._cells(rows, True) if not other[at] >> of & 1)
            new_cost = self._budget.cost(other)
            if new_cost > cost and other[step] >> site & 1 and lost < self._benefit[step, site]:
                rows, cost = other, new_cost
        return rows

    def _live(self, rows: list[int]) -> LivePlan:
        return LivePlan(self._elimination, rows, None, self._budget.site_share)

    def _costs_too_much(self, live: LivePlan) -> bool:
        return self._budget.cost(live.rows) > self._target

    def _cells(self, rows: list[int], computing: bool) -> list[tuple[int, int]]:
        return [
            (step, site)
            for step in range(1, len(rows))
            for site in self._blocks
            if bool(rows[step] >> site & 1) == computing
        ]
