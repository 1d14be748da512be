"""The plan of a mask that changes cell by cell: what a change would save, without planning anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepmask.liveness import Elimination, Reads
from stepmask.mask import Action
from stepmask.nesting import around, without_what_rests


class LivePlan:
    """Backward liveness under changes; only rows that a change reaches are done again.

    Leaves out the unchanged-inputs rule, so its costs serve to compare changes, not to meet a budget.

    Args:
        elimination: The rules of the block graph.
        rows: Which sites compute, one integer for each row.
        forecasts: Which sites extrapolate, one integer for each row; None for none.
        share: (B,) share of a full step's cost.
    """

    def __init__(
        self, elimination: Elimination, rows: Sequence[int], forecasts: Sequence[int] | None, share: np.ndarray
    ) -> None:
        self._elimination = elimination
        self._share = (share / len(rows)).tolist()
        self.rows = list(rows)
        self.forecasts = list(forecasts or [0] * len(rows))
        self._within = elimination.within
        live = elimination.apply(self.rows, self.forecasts, skip_unchanged=False)
        self.runs, self._later = live.runs, live.later

    def change(self, step: int, site: int, action: Action) -> float:
        """By how much the cost would change if a cell took another action; what computes does with all within it."""
        return sum(self._cost_of(self.runs[row], run) for row, run, _ in self._effects(step, site, action))

    def switch(self, step: int, site: int, action: Action) -> list[int]:
        """Let a cell take another action; returns the rows whose plan may have changed."""
        effects = self._effects(step, site, action)
        for row, run, later in effects:
            self.runs[row], self._later[row] = run, later
        self.rows[step], self.forecasts[step] = self._changed(step, site, action)
        return [row for row, _, _ in effects]

    def _changed(self, step: int, site: int, action: Action) -> tuple[int, int]:
        bit, row, forecast = 1 << site, self.rows[step], self.forecasts[step]
        if action == Action.compute:
            bits = bit | self._within.get(site, 0)
            return row | bits, forecast & ~bits
        return row & ~bit, forecast | bit if action == Action.linear else forecast & ~bit

    def _effects(self, step: int, site: int, action: Action) -> list[tuple[int, int, Reads]]:
        """Rows whose state changes: (row, what runs, what is read later)."""
        effects = []
        mask, forecast = self._changed(step, site, action)
        later = self._later[step]
        for row in range(step, -1, -1):
            mask = without_what_rests(mask, self._within)
            run, now = self._elimination.row(mask, later.newest)
            effects.append((row, run, later))
            if row == 0:
                break
            later = self._elimination.before(mask, forecast, now, later)
            if later == self._later[row - 1]:
                break
            mask, forecast = self.rows[row - 1], self.forecasts[row - 1]
        return effects

    def _cost_of(self, old: int, new: int) -> float:
        old, new = around(old, self._within), around(new, self._within)
        changed, total, share = old ^ new, 0.0, self._share
        while changed:
            bit = changed & -changed
            total += share[bit.bit_length() - 1] * (1 if new & bit else -1)
            changed ^= bit
        return total
