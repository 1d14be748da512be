"""The walk: tables of actions that bring the final image closest to the full run's, cell by cell, budget by budget.

Starts from the full run, from every regular schedule and from tables that are given, and improves. Each round takes the
table that promises most, probes what every switch in it would do to the final image, lets `Selection` propose a few
tables at the target or on the way there, and measures them on fixed validation noise. In the end the best table learns
the gains of its forecasts; nothing is searched on those, for what is tuned to one table does harm in the next. Nothing
is believed that was not measured: what falls far behind on the first images is dropped, of the rest the best is taken.
Knows no pipelines, no files, no progress bars: `judge` runs and remembers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stepmask.errors import TargetError
from stepmask.learning.budget import TOLERANCE
from stepmask.learning.end_to_end.judge import FIRST_IMAGES, PSNR_CAP, Judge
from stepmask.learning.end_to_end.search.portfolio import portfolio
from stepmask.learning.end_to_end.search.selection import Selection
from stepmask.learning.end_to_end.search.sizes import Sizes
from stepmask.learning.end_to_end.tables import Candidate, Table
from stepmask.learning.end_to_end.times import Times
from stepmask.mask import Action, StepMask

FAR, NEARBY = math.inf, 1.0
PROPOSALS = (
    (0.0, 1.0, FAR), (0.4, 1.0, FAR), (0.8, 1.0, FAR), (0.0, 0.3, FAR), (0.4, 0.3, FAR), (0.8, 0.3, FAR),
    (0.0, 0.0, NEARBY), (0.4, 0.0, NEARBY), (0.4, 0.15, NEARBY), (0.8, 0.15, NEARBY / 2),
)  # fmt: skip
"""What each round tries: trust of `Selection`, and shares of the slack and of `Tuning.mended`."""


@dataclass(frozen=True)
class Round:
    """What one round did."""

    target: float
    """Of the search."""
    level: float
    """Cost that the round's proposals had to keep to, on the way to the target."""
    best: Candidate | None
    """Best at that cost so far."""
    predicted: float
    """What the round's best proposal was predicted to have, in dB as in `Candidate`; NaN where nothing was predicted:
    key steps were moved, or gains learned."""
    true: float
    """What it was measured to have; NaN where none was better than hopeless."""

    def __str__(self) -> str:
        """How the search stands, in a few words."""
        best = "none yet" if self.best is None else f"{self.best.psnr:.1f} dB at {self.best.cost:.1%}"
        last = "no better" if math.isnan(self.true) else f"{self.true:.1f} dB"
        return f"at {self.level:.0%}: best {best}  last {last}"


class Search:
    """One pass of the search.

    Args:
        judge: Runs tables of a task, within a budget in the unit of the targets.
        starts: Tables to start from too.
    """

    def __init__(self, judge: Judge, starts: Sequence[Table] = ()) -> None:
        self.judge, self.task, self.budget, self.config = judge, judge.task, judge.budget, judge.config
        self._tuning = self.config.tuning
        self._starts = [table for table in starts if self.budget.fits(table.actions, table.weights)]
        self._tried: dict[tuple[str, float], int] = {}
        self._sizes = Sizes(self.task.shape)
        self._sites = [site for site in range(len(self.task.graph)) if site not in self.task.graph.within]
        self.num_probed = 0
        """The number of tables probed."""
        self.candidates: dict[str, Candidate] = {}
        """All tables that were measured in full, by digest."""

    def run(self, targets: list[float]) -> Iterator[Round]:
        """Search at each target, most expensive first; yields after every round."""
        self._begin(targets)
        current = next(iter(self.candidates.values()))
        for target in targets:
            if not self.starts_at(target):
                current = yield from self._descend(current, target)
            yield from self._refine(target, self.config.rounds)
            yield from self._learn_gains(target)
            current = self._plain(target)
        for target in reversed(targets[:-1]):  # what was found below may be worth more than what was found there
            if self._plain(target).cost < (1 - self.config.slack) * target:
                yield from self._refine(target, 1)
                yield from self._learn_gains(target)

    def num_rounds(self, targets: list[float]) -> int:
        """Reports of `run`, at most."""
        walked = [target for target in targets if not self.starts_at(target)]
        down = math.log(min(walked, default=1.0)) / math.log(1 - self.config.shrink)
        return math.ceil(1.5 * down) + len(targets) * (self.config.rounds + self.config.learns_gains)

    def seconds(self, times: Times, targets: list[float]) -> float:
        """How long `run` takes, about: with as many rounds as there are at each target."""
        config, reached, num_rounds = times.config, 1.0, 0
        inputs = self.task.graph, self.task.timesteps, config.allowed
        low, high = self._tuning.near_below * targets[-1], self._tuning.near_above * targets[0]
        total = sum(times.judged(cost) for cost in map(self._cost_of, portfolio(*inputs)) if low <= cost <= high)
        for target in targets:
            while not self.starts_at(target) and reached > target:
                reached = max(target, reached * (1 - config.shrink))
                total, num_rounds = total + times.round(reached), num_rounds + 1
            total += config.rounds * times.round(target)
            num_rounds, reached = num_rounds + config.rounds, target
            total += times.gains(target, config.gains) if config.learns_gains else 0.0
        return total + times.references(num_rounds)

    def end(self, targets: list[float]) -> Iterator[Round]:
        """In the place of the rest of `run`: learn the gains of the best table at each target, where it has none."""
        for target in targets:
            best = self.best(target)
            if self.config.learns_gains and not best.fitted:
                yield from self._fit(best.table, best.made_by, target)

    def _descend(self, current: Candidate, target: float) -> Iterator[Round]:
        """Walk down to a target, some of the cost a round, on the best table of each level."""
        while current.cost > target:
            level = max(target, current.cost * (1 - self.config.shrink))
            level = target if level < 1.04 * target else level
            for report in self._tries(current, level, target):
                self.judge.save()
                yield report
            found = self._plain(level) or min(self._searched(), key=lambda candidate: candidate.cost)
            if found.cost > max(target, 0.995 * current.cost):
                raise TargetError(
                    f"no table below {current.cost:.3f} of the cost was found on the way to {target:g}: ask for more "
                    "of the cost or of the cache"
                )
            current = found
        return current

    def _tries(self, current: Candidate, level: float, target: float) -> Iterator[Round]:
        """A round on the way down; a second one, from another probe, where it fell short of what was predicted.

        Nothing is predicted of the full run, which has no error that another could add to.
        """
        report = self._round(current, level, self.config.slack / 2, target)
        yield report
        came_true = report.predicted - report.true <= self._tuning.shortfall  # not where nothing was measured
        if not came_true and current.psnrs.min() < PSNR_CAP:
            yield self._round(current, level, self.config.slack / 2, target)

    def _learn_gains(self, target: float) -> Iterator[Round]:
        """Learn the gains of the best table."""
        if self.config.learns_gains:
            plain = self._plain(target)
            yield from self._fit(plain.table, plain.made_by, target)

    def _fit(self, table: Table, made_by: str, target: float) -> Iterator[Round]:
        """Learn the gains of a table."""
        table = self.judge.with_gains(table, self.config.gains, self.num_probed)
        if table.digest not in self.candidates:
            self._keep(table, f"{made_by}, gains", fitted=True)
            self.judge.save()
            yield Round(target, target, self.best(target), math.nan, self.candidates[table.digest].psnr)

    def _refine(self, target: float, rounds: int) -> Iterator[Round]:
        """Exchange cells at a target, and draw in tables from around it."""
        slack = self.config.slack
        for _ in range(rounds):
            before = self._plain(target)
            base = self._base(target)
            report = self._round(base, max(target, base.cost * (1 - self.config.shrink)), slack, target)
            slack = min(0.2, 1.3 * slack) if self._plain(target).psnr > before.psnr else max(0.004, 0.6 * slack)
            self.judge.save()
            yield report

    def starts_at(self, target: float) -> bool:
        """Whether a given table costs about as much, so that nothing has to be walked down to it."""
        return any(
            self._tuning.near_below * target <= self.budget.cost_of(table.actions) <= target for table in self._starts
        )

    def best(self, target: float) -> Candidate | None:
        """The best candidate whose plan costs at most `target`."""
        return _best_of(self.candidates.values(), target)

    def _plain(self, target: float) -> Candidate | None:
        """The best of those that have not learned their gains here: what is searched on."""
        return _best_of(self._searched(), target)

    def _searched(self) -> Iterator[Candidate]:
        return (c for c in self.candidates.values() if not c.fitted and c.table.weights is None)

    def _begin(self, targets: list[float]) -> None:
        """Measure the regular schedules near the targets, and the tables to start from."""
        full = Table(np.full(self.task.shape, Action.compute, dtype=np.uint8))
        psnrs = np.full(self.config.num_validation, PSNR_CAP)
        cost = self.budget.cost_of(full.actions)
        self.candidates[full.digest] = Candidate(full, cost, psnrs, "the full run")
        low, high = self._tuning.near_below * targets[-1], self._tuning.near_above * targets[0]
        inputs = self.task.graph, self.task.timesteps, self.config.allowed
        schedules = [s for s in portfolio(*inputs) if low <= self._cost_of(s) <= high]
        for schedule in sorted(schedules, key=self._cost_of):  # what a cheaper one leaves far behind is dropped early
            self._try_schedule(schedule, f"1:{schedule.provenance['interval']}")
        for table in self._starts:  # what was given is measured in full, however far behind it begins
            if table.digest not in self.candidates:
                self._keep(table, "start")
        self.judge.save()

    def _try_schedule(self, schedule: StepMask, kind: str, rival: Candidate | None = None) -> Candidate | None:
        """Measure a schedule of some kind; None if it is hopeless, or its cache too large."""
        table = self._table_of(schedule)
        if not self.budget.fits(table.actions):
            return None
        return self._try(table, name_of(schedule, kind), rival)

    def _cost_of(self, schedule: StepMask) -> float:
        return self.budget.cost_of(self._table_of(schedule).actions)

    def _table_of(self, schedule: StepMask) -> Table:
        return Table.of(self.task.in_full(schedule), self.task.graph)

    def _round(self, base: Candidate, level: float, slack: float, target: float) -> Round:
        """Measure the tables of a cost of at most `level` that one probe of `base` proposes."""
        ranked = self._proposed(base, level, slack)
        made = [(self._try(table, f"round {self.num_probed - 1}"), p) for table, p in ranked[: self._tuning.finalists]]
        true, predicted = max(((c.psnr, p) for c, p in made if c is not None), default=(math.nan, math.nan))
        return Round(target, level, self.best(level), predicted, true)

    def _proposed(self, base: Candidate, level: float, slack: float) -> list[tuple[Table, float]]:
        """Tables that cost at most `level`, and the PSNR predicted, from one probe; best on the first images first."""
        found = self.judge.probe(base.table, self.num_probed)
        self.num_probed += 1
        sizes = self._sizes.average(base.actions, found.sizes, found.known)
        proposed: dict[str, tuple[Table, float]] = {}
        for trust, share, mended in PROPOSALS:
            selection = Selection(self.budget, base.table, found, self.config, trust, sizes, self._sites)
            selection.shrink(min(level, base.cost) - share * slack * level)
            selection.grow(level)
            selection.mend(mended * slack * self._tuning.mended * base.actions.size)
            table = base.table.switched(selection.actions, self.task)
            if self.budget.fits(table.actions, table.weights):
                proposed.setdefault(table.digest, (table, base.psnr + selection.predicted))
        self.judge.measure_first(table for table, _ in proposed.values())
        return sorted(proposed.values(), key=lambda one: -self.judge.first_psnrs(one[0]).mean())

    def _base(self, target: float) -> Candidate:
        """The candidate near a target that promises most there, and has not been started from too often."""
        tuning = self._tuning

        def worth(candidate: Candidate) -> float:
            way = math.log(target / candidate.cost)
            tried = self._tried.get((candidate.table.digest, target), 0)
            slope = tuning.slope_down if way < 0 else tuning.slope_up
            return candidate.psnr + slope * way - tuning.patience * tried

        low, high = tuning.near_below * target, tuning.near_above * target
        near = [candidate for candidate in self._searched() if low <= candidate.cost <= high]
        base = max(near, key=worth, default=self._plain(target))
        key = (base.table.digest, target)
        self._tried[key] = self._tried.get(key, 0) + 1
        return base

    def _try(self, table: Table, made_by: str, rival: Candidate | None = None) -> Candidate | None:
        """Measure a table; None if it fell too far behind on the first images to be measured on all.

        Behind the best that costs no more; behind `rival`, where one is given, at all.
        """
        if table.digest in self.candidates:
            return self.candidates[table.digest]
        behind = 0.0 if rival is not None else self._tuning.hopeless
        rival = rival or self._plain(self.budget.cost_of(table.actions) + TOLERANCE)
        if rival is not None and self.judge.first_psnrs(table).mean() < rival.psnrs[:FIRST_IMAGES].mean() - behind:
            return None
        return self._keep(table, made_by)

    def _keep(self, table: Table, made_by: str, fitted: bool = False) -> Candidate:
        """Measure a table on all validation images."""
        candidate = Candidate(table, self.budget.cost_of(table.actions), self.judge.psnrs(table), made_by, fitted)
        self.candidates[table.digest] = candidate
        return candidate


def name_of(schedule: StepMask, kind: str) -> str:
    """What a schedule of some kind is called in provenance."""
    return " ".join(filter(None, [schedule.provenance["method"], kind, schedule.provenance.get("forecast", "")]))


def _best_of(candidates: Iterable[Candidate], most: float) -> Candidate | None:
    """The one of highest PSNR among those that cost at most so much."""
    within = (candidate for candidate in candidates if candidate.cost <= most)
    return max(within, key=lambda candidate: candidate.psnr, default=None)
