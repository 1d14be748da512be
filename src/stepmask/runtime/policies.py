"""What a gate does at one cell. A policy sees one stream: `step` counts from the row at which the stream began."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np

from stepmask.errors import UnsupportedModelError
from stepmask.graph import callers
from stepmask.liveness import Plan, State, rows_of, table_of
from stepmask.nesting import inside_of
from stepmask.runtime.cache import Cache
from stepmask.runtime.forecasts import Forecasts
from stepmask.values import Value, constant, put_together, take_apart


class Policy(Protocol):
    """Decides at every site of every step, and may keep values in the cache."""

    def __call__(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """The value that the rest of the model gets to see."""
        ...


class RunPlan:
    """Executes a `Plan`: keeps only what is read later, and only until its last read."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.is_full = bool(plan.compute.all())
        """Whether every cell computes."""
        self._states = plan.states.tolist()
        self._called = plan.called.tolist()
        passed = plan.called & (plan.states != State.reuse) & (plan.states != State.forecast) & (plan.keep == 0)
        unread = ~plan.called & (plan.states == State.dead)
        passed[0] = unread[0] = False
        self._asked, self._unread = (~passed).tolist(), unread.tolist()
        self._keep = plan.keep.tolist()
        self._must_run = rows_of(plan.called)
        rows = np.arange(plan.num_rows)[:, None]
        self._computed = np.maximum.accumulate(np.where(plan.compute, rows, -1)).tolist()  # last, at each cell
        self._forecasts = Forecasts(plan)

    @cached_property
    def _reads(self) -> list[list[tuple[int, int] | None]]:
        return _reads_to_come(self.plan)

    @cached_property
    def acting(self) -> frozenset[int]:
        """The sites that ever do anything but compute where they are reached, or whose values are kept."""
        plan, graph = self.plan, self.plan.graph
        around = callers(graph)
        found = set()
        for site in range(len(plan.sites)):
            reached = True if around[site] is None else plan.called[:, around[site]]
            if (reached & ((plan.states[:, site] != State.compute) | (plan.keep[:, site] > 0))).any():
                found.add(site)
        return frozenset(found)

    @cached_property
    def kept(self) -> frozenset[int]:
        """The sites of which a value is ever kept."""
        return frozenset(np.flatnonzero(self.plan.keep.any(axis=0)).tolist())

    def runs(self, step: int, site: int) -> bool:
        """Whether a site computes: at its first step also where it is dead, to learn the shape of its value."""
        return step == 0 or self._states[step][site] == State.compute

    def calls(self, step: int, site: int) -> bool:
        """Whether a site is called, for its own value or for what lies within it."""
        return step == 0 or self._called[step][site]

    def called(self, step: int) -> list[bool] | None:
        """Per site whether it runs at a step, for itself or for what lies within; None where all do."""
        return self._called[step] if step else None

    def asks(self, step: int) -> list[bool]:
        """Per site whether anything is to be done at a step but to run it."""
        return self._asked[step]

    def unread(self, step: int) -> list[bool]:
        """Per site whether it rests at a step, with all that lies within, and nothing reads its value."""
        return self._unread[step]

    def must_run(self, step: int) -> int:
        """The sites that run at a step, a bit for each."""
        return self._must_run[step]

    def __call__(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """Compute, reuse, extrapolate, or stand in for a dead value."""
        if cache.reach(site, step):
            raise UnsupportedModelError(
                f"{self.plan.sites[site]} runs several times in one call of the denoiser, so one cell cannot say what "
                "it does: switch off what splits its input (forward chunking?), or leave it out: "
                "stepmask.register_sites(model, [patterns])"
            )
        if cache.device is None:
            return self._value(step, site, compute, cache)
        self._look_ahead(step, site, cache)
        value = self._value(step, site, compute, cache)
        self._look_ahead(step, site, cache)
        return value

    def _look_ahead(self, step: int, site: int, cache: Cache) -> None:
        """Ask for what is read next, if it has been computed."""
        if self._reads[step][site] is not None:
            at, next_site = self._reads[step][site]
            if cache.newest_step(next_site) == self._computed[at][next_site]:
                forecasts = self._states[at][next_site] == State.forecast
                cache.expect(next_site, self._forecasts.num_values(next_site) if forecasts else 1)

    def _value(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        state, keep = self._states[step][site], self._keep[step][site]
        if state == State.compute:
            value = compute()
            if keep:
                cache.put(site, constant(value), step, keep)
            if step == 0:
                cache.learn_shape(site, value)
            return value
        if state == State.dead:
            if step == 0:  # only where a site's value is never read at all: its shape is not known yet
                value = compute()
                cache.learn_shape(site, value)
                return value
            if self._called[step][site]:
                compute()  # for the sake of what lies within
            return cache.dead(site)
        if self._called[step][site]:
            compute()
        self._check_cached(step, site, cache)
        value = cache.get(site) if state == State.reuse else self.forecast(step, site, cache)
        cache.trim(site, keep)
        return value

    def _check_cached(self, step: int, site: int, cache: Cache) -> None:
        """See that the newest value is the one that the plan means, as it was computed."""
        if cache.newest_step(site) != self._computed[step][site]:
            raise passed_over(self.plan.sites[site])
        if cache.written(site):
            raise UnsupportedModelError(
                f"the model wrote into the value of {self.plan.sites[site]} after it was cached, so it cannot be used "
                "again: if something like FreeU was switched on after the mask was applied, apply the mask again"
            )

    def forecast(self, step: int, site: int, cache: Cache) -> Value:
        """What a site that does not compute extrapolates to."""
        known = cache.known(site)[: self._forecasts.num_values(site)]
        taken_apart = [(at, *take_apart(value)) for at, value in known]
        parts = self._forecasts(site, step, [(at, parts) for at, parts, _ in taken_apart])
        return put_together(parts, taken_apart[0][2])


def passed_over(site: str) -> UnsupportedModelError:
    """What to raise where a site that computes was not reached."""
    return UnsupportedModelError(
        f"{site} did not run at a step at which the mask says that it computes: does something else skip blocks, as "
        "the caches of diffusers (enable_cache) and of DeepCache do? Switch that off, or remove the mask"
    )


def _reads_to_come(plan: Plan) -> list[list[tuple[int, int] | None]]:
    """For each cell, the next one, of its row or a later one, at which a site reads what it has cached."""
    reads = (plan.states == State.reuse) | (plan.states == State.forecast)
    rest = ~plan.called
    rest[0] = False
    within = table_of([inside_of(row, plan.graph.within) for row in rows_of(rest)], len(plan.sites))
    found: list[list[tuple[int, int] | None]] = [[None] * len(plan.sites) for _ in range(plan.num_rows)]
    coming = None
    for row in reversed(range(plan.num_rows)):
        for site in reversed(range(len(plan.sites))):
            found[row][site] = coming
            if reads[row, site] and not within[row, site]:
                coming = row, site
    return found
