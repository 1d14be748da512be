"""The default way to learn: turns what users ask for into a search, and what it found into masks.

Users ask for a share of the MACs, for a speed-up or for both, for a PSNR, for a limit of the cache, or for several
budgets at once. What is reported was measured on held-back noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError, TargetError
from stepmask.family import MaskFamily, Member
from stepmask.inspection.placement import device_of
from stepmask.learning.budget import Budget, default_cache_bytes
from stepmask.learning.clock import Clock, TimeUpError, unlimited
from stepmask.learning.end_to_end.budgets import budget_in_time, shares_asked, timed_costs
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.end_to_end.efforts import changes, efforts
from stepmask.learning.end_to_end.judge import LEAST_PROBES, PROBES, Judge
from stepmask.learning.end_to_end.memory import Needs, fitted, model_bytes
from stepmask.learning.end_to_end.outcome import latency_facts, psnr_facts
from stepmask.learning.end_to_end.search.coarse import CoarseSearch
from stepmask.learning.end_to_end.search.search import Round, Search
from stepmask.learning.end_to_end.tables import Candidate, Table
from stepmask.learning.end_to_end.times import Times, measured_pace
from stepmask.learning.job import Job
from stepmask.learning.refusals import NoGradientError, check_even, check_full_run, check_gradients
from stepmask.liveness import make_plan
from stepmask.mask import SECONDS, StepMask
from stepmask.words import duration, size

SPACING = 0.015
"""Masks of a family differ by at least so much in cost."""


def learn(job: Job) -> StepMask | MaskFamily:
    """Search for the mask that a job asks for, or for a family of masks.

    Raises:
        TargetError: A target cannot be reached.
        UnsupportedModelError: No gradient comes back through the pipeline.
    """
    learning = EndToEndLearning(job)
    if job.progress:
        job.say(learning.forecast())
    with job.reporting(learning.num_rounds, "selecting", "measuring schedules", learning.seconds()) as tell:
        learning.run(tell)
    return learning.family() if job.goals.targets is not None else learning.mask()


class EndToEndLearning:
    """One search for what a job asks for.

    Attributes:
        targets: Budgets as shares of the full run's cost, most expensive first.
        judge: Runs tables and remembers.
        search: Looks for tables.
        times: How long measurements take.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._goals = job, job.goals
        check_full_run(job.task.pipe)
        self.config, self._memory = fitted(job.config, job.task, job.processes)
        self._limit = job.goals.max_cache_bytes or default_cache_bytes(job.task.graph, job.task.costs)
        self._why_by_runs, self._is_cut = "", False
        if self.config.gradients:
            try:
                check_gradients(job.task.pipe)
                check_even(job.task.course)
            except NoGradientError as error:
                self._note_by_runs(error)
        self._choose_level()
        starts = [Table(mask.actions, **mask.forecasting()).digest for mask in job.goals.start]
        self._checkpoint = job.checkpoint(**({"start": starts} if starts else {}))
        self._most = None if self._goals.max_minutes is None else 60 * self._goals.max_minutes
        self._clock = Clock(self._checkpoint, job.processes, self._most, job.effort.facts()[SECONDS])
        self.times = self._known_times()
        self._begin()
        self._choose_effort()

    def _choose_level(self) -> None:
        """Whether all blocks rest together, which needs a task with outer sites; and whether cells do by themselves."""
        config, innermost = self.config, self._job.task.innermost
        nested = any(set(mask.sites) - set(innermost.graph.names) for mask in self._goals.start)
        self.coarse = config.coarse is not False or not config.gradients or nested
        self._walks = (
            config.coarse is None and config.gradients and innermost.graph.has_levels and self._has_room_for_branches
        )
        self._task = self._job.task if self.coarse else innermost
        self.budget = Budget(self._task.graph, self._task.costs, max_cache_bytes=self._limit, course=self._task.course)
        self._tables = [self._table_to_start_from(mask) for mask in self._goals.start]
        self.targets = shares_asked(self._goals, self.budget, self._task.shape[0])

    @property
    def _has_room_for_branches(self) -> bool:
        """Whether the cache may hold two values of all innermost sites."""
        return 2 * self._job.task.innermost.costs.value_bytes.sum() <= self._limit

    def _begin(self) -> None:
        if self._goals.target_speedup is not None:
            key, size = f"latencies{'.coarse' if self.coarse else ''}", self.config.speed_batch_size
            costs = timed_costs(self._task, size, self._checkpoint, self._job.processes, key)
            self.budget = budget_in_time(self._goals, self._task, costs, self._limit)
            self.targets = [self.budget.target]
        self.times = self.times.under(self.config)
        known = self._checkpoint, self._job.processes, self._clock, self.times
        self.judge = Judge(self._task, self.budget, self.config, *known)
        self.search = (
            CoarseSearch(self.judge, self._tables, self._walks) if self.coarse else Search(self.judge, self._tables)
        )

    def _note_by_runs(self, error: NoGradientError) -> None:
        self._why_by_runs = str(error)
        warnings.warn(f"{error}. Learning goes on by runs alone, which is not as good.", stacklevel=2)
        self.config = replace(self.config, gradients=False)

    def _go_by_runs(self, error: NoGradientError) -> None:
        """Begin anew without gradients; what was measured stays."""
        self._note_by_runs(error)
        self._choose_level()
        self._begin()
        self._choose_effort()

    def _known_times(self) -> Times:
        """How long measurements take where the first process runs; no time where nobody asks, or it is not known."""
        job, values = self._job, self._checkpoint.values

        def measured() -> dict | None:
            return measured_pace(job.task, self.config) if job.progress or self._most is not None else None

        if values.get("pace") is None:
            values["pace"] = job.processes.of_first(measured)
        pace = values["pace"] or {"forth": (0.0, 0.0)}
        graph = 0 if self._memory is None else self._memory.graph_bytes(self.config)
        return Times(self.config, job.task.shape[0], **pace, graph=graph, num_processes=job.processes.count)

    def _choose_effort(self) -> None:
        """Options under which the search takes the time that there is; an interrupted one goes on with its own.

        Raises:
            TargetError: There are none.
        """
        if self._most is None:
            return
        asked, values = self.config, self._checkpoint.values
        key = f"effort.{self._goals.max_minutes:g}.{'gradients' if asked.gradients else 'runs'}"
        if key in values:
            return self._take(replace(asked, **values[key]))
        for config in efforts(asked):
            self._take(config)
            if self.seconds() <= self._most:
                values[key] = changes(config, asked)
                return
        raise TargetError(
            f"max_minutes={self._goals.max_minutes:g} is too short: the least that makes sense, to choose key steps "
            f"and to learn gains of their forecasts, takes about {duration(self.seconds())} here. Allow as much, or "
            "take a schedule such as stepmask.schedules.key_steps, which takes no time"
        )

    def _take(self, config: EndToEnd) -> None:
        """Go on under other options."""
        if config == self.config:
            return
        self.config = config
        self._choose_level()
        self._begin()

    def seconds(self) -> float:
        """How long learning takes, about; 0 where that is not known."""
        return self.search.seconds(self.times, self.targets) + self.times.held_back(self.targets)

    @property
    def needs(self) -> Needs | None:
        """Memory that learning takes, at most; None where that is not known."""
        return None if self._memory is None else self._memory.needs(self.config)

    def forecast(self) -> str:
        """What learning needs, in words; nothing where that is not known."""
        needs, device = [], device_of(self._task.denoiser)
        if self.seconds():
            needs.append(duration(self.seconds()))
        if self.needs is not None:
            needs.append(f"{size(self.needs.device + model_bytes(self._task))} on {device} with the model")
            needs += [f"{size(self.needs.host)} on the host"] if self.needs.host else []
        if not needs:
            return ""
        less = ", ".join(f"{name}={value}" for name, value in self._less.items())
        shorter = f"with {less}, to be over in time" if less else "max_minutes (--max-minutes) makes it shorter"
        return f"learning takes about {', '.join(needs)}; {shorter}"

    @property
    def _less(self) -> dict[str, Any]:
        """Options that were changed so that learning takes less time."""
        return {} if self._most is None else changes(self.config, self._job.config)

    def _table_to_start_from(self, mask: StepMask) -> Table:
        """A given mask on the rows of the task's run; resampled if it has other timesteps.

        Raises:
            StepMaskError: It belongs to another model, or forecasts where that is not allowed.
        """
        mask.check(graph=self._task.graph)
        if not self.config.forecast and not mask.is_binary:
            raise StepMaskError("a mask to start from forecasts, and forecast=False allows none: leave one of them out")
        if not np.array_equal(mask.timesteps, self._task.timesteps):
            mask = mask.resample(self._task.timesteps)
        return Table.of(self._task.in_full(mask), self._task.graph)

    @property
    def num_rounds(self) -> int:
        """Reports of the whole search, at most: rounds on the way down, moves of key steps, fits, and rounds."""
        return self.search.num_rounds(self.targets)

    def run(self, report: Callable[[Round], None]) -> None:
        """Search at all targets, by runs alone where no gradient comes back; with ``min_psnr`` until one has less."""
        self.judge.check_objective()
        try:
            self._search(report)
        except NoGradientError as error:
            self._go_by_runs(error)
            self._search(report)

    def _search(self, report: Callable[[Round], None]) -> None:
        """Until it ends, or time is up: then what is best learns its gains, for which there is time left."""
        self._clock.reserve = self._seconds_to_end
        try:
            self._search_on(report)
        except TimeUpError:
            self._is_cut = True
        finally:
            self._clock.reserve = unlimited
        if self._is_cut:
            warnings.warn(
                f"the {self._goals.max_minutes:g} minutes of max_minutes were over before the search ended: the mask "
                "is the best so far; the same call with resume=FILE and more minutes goes on",
                stacklevel=2,
            )
            for done in self.search.end(self.targets):
                report(done)

    def _seconds_to_end(self, gains: float) -> float | None:
        """What it takes to learn gains of the best tables and to measure them; None while some target has no table.

        `gains` are seconds of it that come first.
        """
        best = [self.search.best(target) for target in self.targets]
        if None in best:
            return None
        plain = [one.cost for one in best if not one.fitted] if self.config.learns_gains else []
        fits = sum(self.times.gains(cost, self.config.gains) for cost in plain)
        return max(0.0, fits - gains) + self.times.held_back([one.cost for one in best])

    def _search_on(self, report: Callable[[Round], None]) -> None:
        enough, before = self._goals.min_psnr, None
        for done in self.search.run(self.targets):
            if enough is not None and before is not None and done.target < before:
                if self._psnr(self.search.best(before)) < enough:
                    return
            before = done.target
            report(done)

    def mask(self) -> StepMask:
        """The mask that was asked for.

        Raises:
            TargetError: None has the PSNR on held-back noise.
        """
        if self._goals.min_psnr is None:
            return self._finish(self.search.best(self.targets[-1]))
        for candidate in reversed(self._frontier()):
            enough = self._goals.min_psnr
            if self._psnr(candidate) >= enough and self.judge.held_back(candidate.table).mean() >= enough:
                return self._finish(candidate)
        raise TargetError(
            f"min_psnr={self._goals.min_psnr:g} was not reached below the full run: ask for less, or allow more rounds"
        )

    def _psnr(self, candidate: Candidate) -> float:
        """PSNR in dB; with an objective, by which candidates count instead, on held-back noise."""
        return candidate.psnr if self.config.objective is None else float(self.judge.held_back(candidate.table).mean())

    def family(self) -> MaskFamily:
        """The best masks between the first and the last target."""
        members = []
        for candidate in self._frontier():
            mask = self._finish(candidate)
            members.append(Member(mask.provenance["cost"], mask.provenance["psnr"]["mean"], mask))
        return MaskFamily(tuple(members))

    def _frontier(self) -> list[Candidate]:
        """Candidates that no cheaper one beats, most expensive first, not too close, the best at each target always."""
        wanted = [self.search.best(target) for target in self.targets]
        chosen = {id(candidate): candidate for candidate in wanted if candidate is not None}
        low, high = min(c.cost for c in chosen.values()), self.targets[0]
        for candidate in sorted(self.search.candidates.values(), key=lambda c: c.cost):
            best = self.search.best(candidate.cost)
            apart = all(abs(candidate.cost - other.cost) >= SPACING for other in chosen.values())
            if best is candidate and low <= candidate.cost <= high and apart:
                chosen[id(candidate)] = candidate
        return sorted(chosen.values(), key=lambda c: -c.cost)

    def _finish(self, candidate: Candidate) -> StepMask:
        """A candidate with its identity and what is known of it."""
        facts = psnr_facts(self.judge.held_back(candidate.table))
        if self.config.objective is None:
            facts["validation_mean"] = round(candidate.psnr, 3)
        probed = max(self.search.num_probed + 1, LEAST_PROBES if self.config.learns_gains else 0)
        seeds = self._task.noise.seeds(0, PROBES + probed * self.config.num_probes)
        mask = candidate.table.mask(self._task)
        provenance = {
            **self._task.facts(seeds),
            "cost": round(candidate.cost, 6),
            **({} if self._goals.target_speedup is None else {"latency": self._latency_of(mask)}),
            "psnr": facts,
            "made_by": candidate.made_by,
            **({"with_less": self._less} if self._less else {}),
            **({"cut_by_max_minutes": True} if self._is_cut else {}),
            **({"without_gradients": self._why_by_runs} if self._why_by_runs else {}),
            **({"started_from_masks": len(self._goals.start)} if self._goals.start else {}),
        }
        scheduler, graph = self._task.scheduler, self._task.graph.fingerprint
        return replace(mask, scheduler=scheduler, graph=graph, provenance=provenance)

    def _latency_of(self, mask: StepMask) -> dict[str, Any]:
        plan = make_plan(mask, self._task.graph)
        return latency_facts(self.budget.costs, plan, self.config.speed_batch_size)
