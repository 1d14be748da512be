"""Budgets of plans: what a mask costs once elimination is counted, in one unit or several, and what its cache may hold.

Of several units a search sees one number all the same: the largest of the shares, each relative to its limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from stepmask.cost import CostTable, Unit
from stepmask.errors import TargetError
from stepmask.graph import BlockGraph
from stepmask.learning.live_plan import LivePlan
from stepmask.liveness import Elimination, make_plan, rows_of, table_of
from stepmask.mask import Action, StepMask
from stepmask.mask_tables import Weights
from stepmask.nesting import around
from stepmask.runtime.rows import Course

TOLERANCE = 0.01
"""How far under its target a plan's cost may end, as a share of the full run, unless no single cell fits."""


VALUES, LEAST_BYTES = 6, 64 * 2**20
"""Where no limit is given, the cache may hold so many of the largest values that pass between the outermost sites, or
so many bytes where that is more."""


def default_cache_bytes(graph: BlockGraph, costs: CostTable) -> int:
    """Bytes of cache per image that masks keep to where no limit is given: small beside what the model takes itself.

    That is six of the tensors that pass from block to block, 0.16 GiB for flux-dev at 1024 pixels, and at least 64 MiB.
    """
    return max(LEAST_BYTES, VALUES * passed_bytes(graph, costs))


def passed_bytes(graph: BlockGraph, costs: CostTable) -> int:
    """Bytes per image of the largest value that passes between the outermost sites."""
    size = dict(zip(costs.sites, costs.value_bytes, strict=True))
    return int(max(size[graph.names[site]] for site in graph.level("stack")))


class Budget:
    """Cost of masks over one graph, as a share of the full run after elimination.

    Where several units are counted, the cost is the largest of their shares, each divided by its limit and multiplied
    by the tightest one. So the full run costs 1, and what costs at most `target` keeps to all limits.

    Args:
        graph: The sites of the model.
        costs: What they cost.
        limits: Kept share of the full run in each unit that is counted, at most; None for MACs alone. What a mask costs
            in a single unit does not depend on its limit.
        max_cache_bytes: Most bytes per image that a plan may keep; None for no limit.
        course: What the call runs, where its rows may differ.

    Attributes:
        target: The tightest of the limits.
    """

    def __init__(
        self,
        graph: BlockGraph,
        costs: CostTable,
        limits: Mapping[Unit, float] | None = None,
        max_cache_bytes: int | None = None,
        course: Course | None = None,
    ) -> None:
        self.graph, self.costs, self._max_cache_bytes, self._course = graph, costs, max_cache_bytes, course
        self._elimination = Elimination(graph)
        limits = limits or {"macs": 1.0}
        self.target = min(limits.values())
        self._shares = []
        for unit, limit in limits.items():
            sites, always = costs.shares(unit)
            scale = self.target / limit  # 1 of a single unit, exactly
            self._shares.append((scale * sites, scale * always))
        self.site_share = sum(sites for sites, _ in self._shares) / len(limits)
        """(B,) share of a full step; of several units the mean."""
        inside = table_of([graph.within.get(site, 0) | 1 << site for site in range(len(graph))], len(graph))
        self.whole_share = inside @ self.site_share
        """(B,) share of a full step, with all that lies within a site."""

    def cost(self, rows: Sequence[int], forecasts: Sequence[int] | None = None) -> float:
        """Kept share of the full run's cost; rows, and those of the forecasts, as made by `rows_of`."""
        return float(self._costs(rows, forecasts).max())

    def cost_of(self, actions: np.ndarray) -> float:
        """Kept share of the full run's cost under a (T, B) table of `Action`."""
        return float(self.costs_of(actions).max())

    def costs_of(self, actions: np.ndarray) -> np.ndarray:
        """(units,) of the same, in each unit; none may pass `target`."""
        return self._costs(rows_of(actions == Action.compute), rows_of(actions == Action.linear))

    def _costs(self, rows: Sequence[int], forecasts: Sequence[int] | None) -> np.ndarray:
        called = [around(run, self.graph.within) for run in self._runs(rows, forecasts)]
        inputs = None if self._course is None or self._course.is_even else self._course.inputs
        runs = np.average(table_of(called, len(self.graph)), axis=0, weights=inputs)
        shares = np.array([runs @ sites + always for sites, always in self._shares])
        return np.floor(shares * 1e12) / 1e12  # down, so that the noise of a sum never passes a target

    def _runs(self, rows: Sequence[int], forecasts: Sequence[int] | None) -> list[int]:
        """What computes at each row, as `Course.run_by` says it of a plan."""
        if self._course is None or not self._course.anew:
            return self._elimination.apply(rows, forecasts).runs
        runs, every = [], (1 << len(self.graph)) - 1
        for first, end in self._course.stretches:
            computes = [every, *rows[first + 1 :]] if first else rows
            live = self._elimination.apply(computes, None if forecasts is None else forecasts[first:])
            runs += live.runs[: end - first]
        return runs

    def live(self, actions: np.ndarray) -> list[LivePlan]:
        """The plan of a (T, B) table of `Action`, to try changes on: for each unit one that counts it."""
        compute, forecasts = rows_of(actions == Action.compute), rows_of(actions == Action.linear)
        return [LivePlan(self._elimination, compute, forecasts, sites) for sites, _ in self._shares]

    def fits(self, actions: np.ndarray, weights: Weights | None = None) -> bool:
        """Whether the plan of a (T, B) table of `Action` keeps no more than the cache may hold.

        Args:
            actions: The table.
            weights: Of its forecasts, which say how many values they read.
        """
        if self._max_cache_bytes is None:
            return True
        blank = StepMask(compute=np.ones(actions.shape, bool), sites=self.graph.names, timesteps=range(len(actions)))
        plan = make_plan(blank.with_actions(actions, weights=weights), self.graph)
        held = self.costs.peak_cache_bytes(plan)
        return (held if self._course is None else self._course.most(held, self.costs)) <= self._max_cache_bytes

    def floor(self, num_rows: int) -> float:
        """Cost of computing the blocks at the first step only: no plan is cheaper."""
        compute = np.ones((num_rows, len(self.graph)), dtype=bool)
        compute[1:, self.graph.blocks] = False
        return self.cost(rows_of(compute))

    def check_target(self, target: float, num_rows: int) -> None:
        """Raise unless a plan can cost `target`.

        Raises:
            TargetError: It is not in (0, 1], or below the floor.
        """
        if isinstance(target, bool) or not isinstance(target, Real) or not 0 < target <= 1:
            raise TargetError(f"target_macs is a share of the full run in (0, 1], such as 0.6, got {target!r}")
        floor = self.floor(num_rows)
        anew = () if self._course is None else self._course.anew
        again = f", and those that begin anew ({', '.join(map(str, anew))})," if anew else ""
        if target < floor:
            raise TargetError(
                f"target_macs={target:g} cannot be reached: computing only the first of {num_rows} steps{again} "
                f"already costs {floor:.4f} of the full run; ask for {min(1.0, np.ceil(floor * 1000) / 1000):g} or more"
            )
