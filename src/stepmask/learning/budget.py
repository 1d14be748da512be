"""Budgets of plans: what a cell costs once elimination is counted, and how to meet a target exactly.

The cost of a plan is stepwise and not monotone in the mask, so every step here measures the plan.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from numbers import Real

import numpy as np

from stepmask.cost import CostTable, Unit
from stepmask.errors import TargetError
from stepmask.graph import BlockGraph
from stepmask.learning.live_plan import LivePlan
from stepmask.liveness import Elimination, rows_of, table_of
from stepmask.mask import Action

TOLERANCE = 0.01
"""How far under its target a plan's cost may end, as a share of the full run, unless no single cell fits."""


class Budget:
    """Cost of masks over one graph, as a share of the full run after elimination."""

    def __init__(self, graph: BlockGraph, cost: CostTable, unit: Unit = "macs") -> None:
        self.graph, self.costs = graph, cost
        self._elimination = Elimination(graph)
        self.site_share, self.always_share = cost.shares(unit)

    def cost(self, rows: Sequence[int], forecasts: Sequence[int] | None = None) -> float:
        """Kept share of the full run's cost; rows, and those of the forecasts, as made by `rows_of`."""
        runs = table_of(self._elimination.apply(rows, forecasts).runs, len(self.graph))
        share = float(runs.mean(axis=0) @ self.site_share + self.always_share)
        return math.floor(share * 1e12) / 1e12  # down, so that the noise of a sum never passes a target

    def cost_of(self, actions: np.ndarray) -> float:
        """The same for a (T, B) table of `Action`."""
        return self.cost(rows_of(actions == Action.compute), rows_of(actions == Action.linear))

    def live(self, actions: np.ndarray) -> LivePlan:
        """The plan of a (T, B) table of `Action`, to try changes on."""
        compute, forecasts = rows_of(actions == Action.compute), rows_of(actions == Action.linear)
        return LivePlan(self._elimination, compute, forecasts, self.site_share)

    def floor(self, num_rows: int) -> float:
        """Cost of computing the first step only: no plan is cheaper."""
        return self.cost(rows_of(self._first_row_only(num_rows)))

    def check_target(self, target: float, num_rows: int) -> None:
        """Raise unless a plan can cost `target`.

        Raises:
            TargetError: It is not in (0, 1], or below the floor.
        """
        if isinstance(target, bool) or not isinstance(target, Real) or not 0 < target <= 1:
            raise TargetError(f"target_macs is a share of the full run in (0, 1], such as 0.6, got {target!r}")
        floor = self.floor(num_rows)
        if target < floor:
            raise TargetError(
                f"target_macs={target:g} cannot be reached: computing only the first of {num_rows} steps already "
                f"costs {floor:.4f} of the full run; ask for {min(1.0, np.ceil(floor * 1000) / 1000):g} or more"
            )

    def meet(self, compute: np.ndarray, benefit: np.ndarray, target: float) -> np.ndarray:
        """Flip the least harmful cells until the plan costs at most `target`, and no less than needed.

        Args:
            compute: (T, B) bool.
            benefit: (T, B), how much computing a cell is worth; larger is better.
            target: Share of the full run.

        Returns:
            (T, B) bool whose plan costs at most `target`; within `TOLERANCE` of it, or one cell.
        """
        if abs(self.cost(rows_of(compute)) - target) > 3 * TOLERANCE:
            compute = self._threshold(benefit, target)
        rows = rows_of(compute)
        rows = self._shrink(rows, benefit, target)
        rows = self._fill(self._grow(rows, benefit, target), benefit, target)
        before = None
        while rows != before:  # a cell that computes can make room for another
            before = rows
            rows = self._grow(rows, benefit, target, thorough=True)
        return table_of(rows, len(self.graph))

    def _threshold(self, benefit: np.ndarray, target: float) -> np.ndarray:
        """Compute the most beneficial cells, as many as the target allows (bisection: nearly monotone)."""
        blocks = list(self.graph.blocks)
        levels = np.sort(benefit[1:, blocks], axis=None)

        def table(level: float) -> np.ndarray:
            compute = np.ones(benefit.shape, dtype=bool)
            compute[1:, blocks] = benefit[1:, blocks] >= level
            return compute

        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            if self.cost(rows_of(table(levels[middle]))) > target:
                low = middle + 1
            else:
                high = middle
        return table(levels[high])

    def _shrink(self, rows: list[int], benefit: np.ndarray, target: float) -> list[int]:
        """Hold cells, least benefit per saved cost first, while the plan costs too much.

        Lazy greedy: the saving of a cell is measured again when its turn comes, and it waits if others are better now.
        """
        live = LivePlan(self._elimination, rows, None, self.site_share)
        while self.cost(live.rows) > target:
            queue = []
            for step, site in self._cells(live.rows, computing=True):
                saved = -live.change(step, site)
                if saved > 1e-9:
                    heapq.heappush(queue, (max(benefit[step, site], 0.0) / saved, -saved, step, site))
            if not queue:  # no single cell saves anything: hold a whole step, the least beneficial
                self._hold_a_step(live, benefit)
                continue
            patience = len(queue) // 4 + 1  # then all are measured anew: dead cells may have come alive
            while queue and patience and self.cost(live.rows) > target:
                _, _, step, site = heapq.heappop(queue)
                saved = -live.change(step, site)
                if saved <= 1e-9:
                    continue
                entry = (max(benefit[step, site], 0.0) / saved, -saved, step, site)
                if queue and entry > queue[0]:
                    heapq.heappush(queue, entry)
                    continue
                live.flip(step, site)
                patience -= 1
        return live.rows

    def _hold_a_step(self, live: LivePlan, benefit: np.ndarray) -> None:
        blocks = sum(1 << site for site in self.graph.blocks)
        computing = [step for step in range(1, len(live.rows)) if live.rows[step] & blocks]
        worst = min(computing, key=lambda step: benefit[step].sum())
        for site in self.graph.blocks:
            if live.rows[worst] >> site & 1:
                live.flip(worst, site)

    def _grow(self, rows: list[int], benefit: np.ndarray, target: float, thorough: bool = False) -> list[int]:
        """Compute more cells, most benefit per own cost first, while the plan stays within the target."""
        live = LivePlan(self._elimination, rows, None, self.site_share)
        cost = self.cost(rows)
        rate = benefit / np.maximum(self.site_share, 1e-12)
        for step, site in sorted(self._cells(rows, computing=False), key=lambda cell: -rate[cell]):
            if cost >= target - TOLERANCE / 8:
                break
            if not thorough and cost + 0.5 * live.change(step, site) > target:  # a guess: the exact cost decides
                continue
            live.flip(step, site)
            new_cost = self.cost(live.rows)
            if new_cost > target:
                live.flip(step, site)
            else:
                cost = new_cost
        return live.rows

    def _fill(self, rows: list[int], benefit: np.ndarray, target: float, attempts: int = 8) -> list[int]:
        """Use what single cells cannot: let one compute that costs too much, and hold others until it fits."""
        cost = self.cost(rows)
        held = sorted(self._cells(rows, computing=False), key=lambda cell: -benefit[cell])
        for cell in held[:attempts]:
            if cost >= target - TOLERANCE / 2:
                break
            locked = benefit.copy()
            locked[cell] = np.inf
            other = self._shrink(_flip(rows, *cell), locked, target)
            lost = sum(benefit[step, site] for step, site in self._cells(rows, True) if not other[step] >> site & 1)
            new_cost = self.cost(other)
            if new_cost > cost and other[cell[0]] >> cell[1] & 1 and lost < benefit[cell]:
                rows, cost = other, new_cost
        return rows

    def _cells(self, rows: Sequence[int], computing: bool) -> list[tuple[int, int]]:
        return [
            (step, site)
            for step in range(1, len(rows))
            for site in self.graph.blocks
            if bool(rows[step] >> site & 1) == computing
        ]

    def _first_row_only(self, num_rows: int) -> np.ndarray:
        compute = np.ones((num_rows, len(self.graph)), dtype=bool)
        compute[np.ix_(range(1, num_rows), self.graph.blocks)] = False
        return compute


def _flip(rows: Sequence[int], step: int, site: int) -> list[int]:
    return [*rows[:step], rows[step] ^ (1 << site), *rows[step + 1 :]]
