"""Chooses switches: least predicted harm for what they save in the plan, until a budget is met."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from stepmask.learning.budget import Budget
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.end_to_end.gradients.probe import Probe
from stepmask.learning.end_to_end.tables import Table
from stepmask.mask import Action


class Selection:
    """Greedy choice of switches from one settled table, by their predicted harm to the mean PSNR.

    What a cell adds to the error is known in two ways: by size, as if errors of cells had nothing to do with each
    other, and as measured against the error that is there. The measured one sees which errors add up, but is easily
    fooled where many switches seem to take an error back; so a cell that stops computing is never taken to do less
    harm than a share of its size.

    Args:
        budget: What tables cost, and what their caches may hold.
        table: Settled. Sites with weights stay as they are: those were learned for the rows at which they compute.
        probe: What each switch does to the error.
        config: Which actions are allowed, and how much a change counts.
        trust: Trust in the measured change, 0 to 1.
        sizes: (T, B, actions, n) better known sizes of what cells add to the error; None for the probe's own.
        sites: Those that may be switched; None for all.
    """

    def __init__(
        self,
        budget: Budget,
        table: Table,
        probe: Probe,
        config: EndToEnd,
        trust: float = 0.5,
        sizes: np.ndarray | None = None,
        sites: Iterable[int] | None = None,
    ) -> None:
        self._tuning, allowed = config.tuning, config.allowed
        actions, self._weights = table.actions, table.weights
        self.actions = actions.copy()
        self._budget, self._plans = budget, budget.live(actions)
        self._interaction = 0.5 + 0.5 * trust
        self._projections = probe.projections
        size = probe.sizes if sizes is None else sizes
        now = np.take_along_axis(size, actions[:, :, None, None].astype(int), 2)
        measured = probe.linear + np.square(probe.projections).sum(-1)
        computing = actions == Action.compute
        leaving = np.maximum(measured, (1 - trust) * size) if trust else size
        moving = 0.5 * (size - now) + 0.5 * measured
        self._alone = self._tuning.damping * np.where(computing[:, :, None, None], leaving, moving)
        self._sum = np.zeros(probe.projections.shape[-2:])
        possible = np.abs(probe.projections).sum((-1, -2)) > 0
        typical = size[possible].mean(0) if possible.any() else 0.0
        self._square = np.maximum(probe.square, np.maximum(typical, 1e-12 * probe.size))
        self._first = self._square
        for action in Action:
            possible[..., action] &= (actions != action) & (action in (*allowed, Action.compute))
        # a computed cell without effect holds what it would compute: it saves and harms nothing
        possible[..., Action.hold] |= computing & (Action.hold in allowed)
        possible[0] = False
        possible[:, [budget.graph.names.index(site) for site in table.weights or ()]] = False
        if sites is not None:
            possible[:, ~np.isin(np.arange(actions.shape[1]), list(sites))] = False
        self._open = possible
        within, sites = budget.graph.within, range(actions.shape[1])
        self._inside = [[i for i in sites if within.get(site, 0) >> i & 1] for site in sites]
        self._around = [[i for i in within if within[i] >> site & 1] for site in sites]
        self._saved = np.zeros((*actions.shape, len(self._plans)))

    @property
    def predicted(self) -> float:
        """Predicted change of the mean PSNR, in dB, by the switches made so far."""
        return float(-10 * np.log10(self._square / self._first).mean())

    def _changes(self) -> np.ndarray:
        """(T, B, actions, n) predicted change of the squared errors by each switch, after those made so far."""
        return self._alone + 2 * self._interaction * (self._projections * self._sum).sum(-1)

    def harm(self) -> np.ndarray:
        """(T, B, actions) predicted loss of mean PSNR, in dB."""
        ratio = 1 + self._changes() / self._square
        return 10 * np.log10(np.maximum(ratio, 0.1)).mean(-1)

    def shrink(self, target: float) -> np.ndarray:
        """Stop computing cells until the plan costs at most `target`; returns the table (T, B).

        Stops early where nothing that is open saves anything.
        """
        self._measure(range(1, len(self.actions)))
        while (need := np.maximum(self._budget.costs_of(self.actions) - target, 0.0)).any():
            switch = self._best(need)
            if switch is None:
                break
            self._take(*switch)
        return self.actions

    def grow(self, target: float) -> np.ndarray:
        """Compute the cells again that are predicted to help most for what they cost, while the plan costs no more."""
        while True:
            harm = self.harm()[..., Action.compute]
            room = target - self._budget.costs_of(self.actions)
            gain = np.where(self._open[..., Action.compute] & (harm < 0), -harm, 0.0)
            own = np.maximum(self._budget.whole_share, 1e-9) / len(self.actions)
            best, best_rate = None, 0.0
            for index in np.argsort(-(gain / own).ravel(), kind="stable")[: self._tuning.patient_cells]:
                step, site = (int(i) for i in np.unravel_index(index, gain.shape))
                if not gain[step, site]:
                    break  # the others help no more
                cost = np.maximum(self._change(step, site, Action.compute), 1e-9)
                if (cost <= room).all() and gain[step, site] / cost.max() > best_rate:
                    best, best_rate = (step, site), gain[step, site] / cost.max()
            if best is None:
                return self.actions
            changed = self._changed(*best, Action.compute)
            if self._budget.cost_of(changed) <= target and self._budget.fits(changed, self._weights):
                self._take(*best, Action.compute)
            else:
                self._open[(*best, Action.compute)] = False

    def mend(self, most: float = math.inf) -> np.ndarray:
        """Turn holds into forecasts and back where that is predicted to help most; returns the table.

        Args:
            most: How many.
        """
        while most > 0:
            harm = np.where(self._open, self.harm(), np.inf)
            harm[self.actions == Action.compute] = np.inf
            harm[..., Action.compute] = np.inf
            best = np.unravel_index(np.argmin(harm), harm.shape)
            if harm[best] >= -1e-3:
                return self.actions
            step, site, action = (int(i) for i in best)
            changed = self._changed(step, site, action)
            # a forecast may keep an older computation alive
            if self._budget.cost_of(changed) <= self._budget.cost_of(self.actions) and self._budget.fits(
                changed, self._weights
            ):
                self._take(step, site, Action(action))
                most -= 1
            else:
                self._open[best] = False
        return self.actions

    def _best(self, need: np.ndarray) -> tuple[int, int, Action] | None:
        """The switch of least harm per saved cost; what saves more than is needed counts as saving that.

        Args:
            need: (units,) by how much the cost has to fall; each unit counts as far as it has to.
        """
        harm, weights = self.harm(), need / need.sum()
        for _ in range(1000):
            useful = np.minimum(self._saved @ weights, 1.25 * need.max())[..., None]
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = np.where(self._open & (useful > 1e-9), np.maximum(harm, 1e-12) / useful, np.inf)
            rate[..., Action.compute] = np.inf
            step, site, action = (int(i) for i in np.unravel_index(np.argmin(rate), rate.shape))
            if not np.isfinite(rate[step, site, action]):
                return None
            saved = -self._change(step, site, Action(action))
            if (saved <= 1e-9).all():
                self._open[step, site, action] = False
                continue
            if (np.abs(saved - self._saved[step, site]) > 1e-9).any():
                self._saved[step, site] = saved  # measured anew; others may be better now
            elif self._budget.fits(self._changed(step, site, action), self._weights):
                return step, site, Action(action)
            else:
                self._open[step, site, action] = False
        return step, site, Action(action)

    def _change(self, step: int, site: int, action: Action) -> np.ndarray:
        """(units,) by how much the cost would change by a switch."""
        return np.array([plan.change(step, site, action) for plan in self._plans])

    def _changed(self, step: int, site: int, action: int) -> np.ndarray:
        """The table with one more switch; what computes does with all that lies within it."""
        changed = self.actions.copy()
        changed[step, site] = action
        if action == Action.compute:
            changed[step, self._inside[site]] = Action.compute
        return changed

    def _take(self, step: int, site: int, action: Action) -> None:
        change = self._changes()[step, site, action]
        self._square = np.maximum(self._square + change, 0.5 * self._first)
        self._sum = self._sum + self._projections[step, site, action]
        rows, *_ = (plan.switch(step, site, action) for plan in self._plans)  # the same of each
        moved = Action.compute in (action, self.actions[step, site])
        self.actions = self._changed(step, site, action)
        self._open[step, site] = False
        if moved:  # what was measured of one of the two no longer holds for the other
            self._open[step, [*self._inside[site], *self._around[site]]] = False
        if moved:
            self._lock(step, site)
            self._measure(rows)

    def _lock(self, step: int, site: int) -> None:
        """Close what the model no longer describes after a switch.

        The site's cells between its neighbouring computations; and pairs of switches of which one would reuse a value
        that the other has spoilt: later sites compute on the changed value at this step, so they must not begin to be
        reused at the next; and what this cell reuses must not be spoilt by earlier sites at the step it comes from.
        """
        computes = np.flatnonzero(self.actions[:, site] == Action.compute)
        before, after = computes[computes < step], computes[computes > step]
        first = before[-1] if len(before) else 0
        last = after[0] if len(after) else len(self.actions) - 1
        self._open[first : last + 1, site] = False
        leaving = (Action.hold, Action.linear)
        if self.actions[step, site] != Action.compute:
            if step + 1 < len(self.actions):
                reusable = np.flatnonzero(self.actions[step, site + 1 :] == Action.compute) + site + 1
                self._open[step + 1, reusable[:, None], leaving] = False
            self._open[first, np.arange(site)[:, None], leaving] = False

    def _measure(self, rows: range | list[int]) -> None:
        """What holding each computing cell of these rows would save."""
        for step in rows:
            runs = self._plans[0].runs[step]
            for site in range(self.actions.shape[1]):
                if step and self._open[step, site].any() and self.actions[step, site] == Action.compute:
                    self._saved[step, site] = -self._change(step, site, Action.hold) if runs >> site & 1 else 0.0
