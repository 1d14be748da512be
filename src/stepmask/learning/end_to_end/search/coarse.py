"""From coarse to fine: whole steps first, forecast with learned weights; then cells within them, budget by budget.

At each target all blocks rest together at most steps. The steps that compute are spaced in several ways, in U-Nets also
with a shallow one soon after the first. These contend with the weights that their forecasts have learned; by runs alone
key steps are moved instead. Tables that cost somewhat more than the target learn weights too. Then each round takes the
table that promises most, probes what every switch in it would do to the final image, lets `Selection` propose a few
tables at the target or on the way there, and measures them; the best learns its gains and weights anew, from those it
had. Where skip connections lead around blocks, so that some are worth computing alone, the walk cell by cell follows,
on the same tables, at targets that pay for many key steps.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from stepmask.errors import TargetError
from stepmask.learning.end_to_end.judge import PSNR_CAP, Judge
from stepmask.learning.end_to_end.search.portfolio import SPACINGS, coarse_steps, moved_steps, spacings_of
from stepmask.learning.end_to_end.search.search import Round, Search, name_of
from stepmask.learning.end_to_end.tables import Candidate, Table
from stepmask.learning.end_to_end.times import Times
from stepmask.mask import Action, StepMask
from stepmask.schedules import key_steps

MOVES_BY_RUNS = 4
"""Where no gradient comes back, so many times as many moves of key steps are tried."""

CONTENDERS, SHORT = 3, 0.3
"""So many spacings of key steps learn weights in such a share of the iterations, and the best of them in all."""

MANY_STEPS = 12
"""Where a target pays for more key steps, forecasts reach so little ahead that cells chosen one by one lead."""


class CoarseSearch(Search):
    """One pass of the search.

    Args:
        judge: Runs tables of a task, within a budget in the unit of the targets.
        starts: Tables to start from too.
        walks: Whether cells are also searched by themselves, in a walk down from the full run to where that leads.
    """

    def __init__(self, judge: Judge, starts: Sequence[Table] = (), walks: bool = False) -> None:
        super().__init__(judge, starts)
        self._key_steps: dict[str, StepMask] = {}
        self._counts: dict[str, float] = {}  # what of their cost keeps to a bound
        self._shallow_cost = 0.0  # what may come on top
        self._sites = range(len(self.task.graph))
        self.walk = Search(judge, [table for table in starts if table.weights is None]) if walks else None
        if self.walk is not None:
            self.walk.candidates = self.candidates

    def run(self, targets: list[float]) -> Iterator[Round]:
        """Search at each target, most expensive first; yields after every round."""
        self._begin(targets)
        for target in targets:
            yield from self._climb(target)
            yield from self._learn_gains(target)
            if self._refines:
                yield from self._refine(target)
            if self.best(target) is None:
                raise TargetError(
                    f"no table that costs at most {target:g} and keeps to the cache was found: ask for more of the "
                    "cost or of the cache"
                )
        if walked := self._walked(targets):
            self.walk.num_probed = self.num_probed  # so that its noise is another
            yield from self.walk.run(walked)
            self.num_probed = self.walk.num_probed

    def _walked(self, targets: list[float]) -> list[float]:
        """The targets that the walk goes down to."""
        return [t for t in targets if t * self.task.shape[0] > MANY_STEPS] if self.walk is not None else []

    def num_rounds(self, targets: list[float]) -> int:
        """Reports of `run`, at most."""
        fits = 2 if self.config.learns_gains else 1  # of a round: what was tried, and its gains
        first = (self.config.num_moves > 0 and not self._contends) + (2 if self.config.learns_gains else 0)
        whole = len(targets) * (first + fits * self.config.rounds * self.config.gradients)
        walked = self._walked(targets)
        return whole + (self.walk.num_rounds(walked) if walked else 0)

    def seconds(self, times: Times, targets: list[float]) -> float:
        """How long `run` takes, about: as many rounds as there are at each target, and the most moves and gains."""
        config, total = times.config, 0.0
        refining, contends = config.gradients and config.rounds > 0, config.gradients and config.learns_gains
        moves = config.num_moves * (1 if config.gradients else MOVES_BY_RUNS)
        spacings = len(SPACINGS) * (1 + self.task.graph.has_levels)
        for target in targets:
            dear = self._tuning.over * target
            for bound in [target, dear] if refining else [target]:
                total += spacings * times.run(config.num_validation, bound)
            total += 0.0 if contends else times.judged(target, moves)
            if contends:
                total += CONTENDERS * times.gains(dear if refining else target, math.ceil(SHORT * config.gains))
            if config.learns_gains:
                total += sum(times.gains(cost, config.gains) for cost in ([target, dear] if refining else [target]))
            if refining:
                fit = times.gains(target, math.ceil(config.gains / 2)) if config.learns_gains else 0.0
                total += config.rounds * (times.round(target) + fit)
        total += times.references(len(targets) * config.rounds if refining else 0)
        walked = self._walked(targets)
        return total + (self.walk.seconds(times, walked) if walked else 0.0)

    @property
    def _refines(self) -> bool:
        """Whether tables that cost somewhat more than a target will be brought down to it."""
        return self.config.gradients and self.config.rounds > 0

    def _bounds(self, target: float) -> tuple[float, ...]:
        """What the key steps that are tried for a target may cost: somewhat more, where that will be taken away."""
        return (self._tuning.reach * target, self._tuning.over * target) if self._refines else (target,)

    def _climb(self, target: float) -> Iterator[Round]:
        """Move key steps of the best table of them, for as long as that helps; not where weights tell what it is worth.

        What is best before weights are learned is often not so afterwards.
        """
        bound = self._bounds(target)[0]
        best = self._best_of_whole_steps(bound)
        if not self.config.num_moves or best is None or self._contends:
            return
        tried, seen = 0, set()
        most = self.config.num_moves * (1 if self.config.gradients else MOVES_BY_RUNS)
        while best is not None:
            schedule, start, best = self._key_steps[best.table.digest], best, None
            facts = schedule.provenance
            known = {"forecast": facts.get("forecast"), "shallow": facts.get("shallow", ())}
            for steps in moved_steps(facts["steps"], self.task.shape[0], seed=tried):
                if tuple(steps) in seen or tried >= most:
                    continue
                seen.add(tuple(steps))
                tried += 1
                moved = self._try_steps(key_steps(self.task.graph, self.task.timesteps, steps, **known), start)
                if moved is not None and moved.psnr > start.psnr and moved.cost <= bound:
                    best = moved
                    break
        self.judge.save()
        yield Round(target, target, self.best(target), math.nan, start.psnr)

    def _learn_gains(self, target: float) -> Iterator[Round]:
        """Learn how the best tables of whole steps extrapolate: near the target, and of those that cost some more.

        What costs too much is where refining starts from: a few cells within the steps that compute are worth less than
        what a further step is.
        """
        if not self.config.learns_gains:
            return
        *nearer, most = self._bounds(target)
        chosen = self._most_promising(most)
        found = [*(self._best_soon(self._like(chosen, bound)) for bound in nearer), chosen]
        for candidate in {c.table.digest: c for c in found if c is not None}.values():
            yield from self._fit(candidate.table, candidate.made_by, target)

    def _refine(self, target: float) -> Iterator[Round]:
        """Take cells away until a table costs what is asked, exchange some; until two rounds in a row do not help."""
        slack, idle = self.config.slack, 0
        for _ in range(self.config.rounds):
            before, base = self.best(target), self._base(target)
            if base is None or idle == 2:
                return
            report = yield from self._round(base, max(target, base.cost * (1 - self.config.shrink)), slack, target)
            better = before is None or self.best(target).psnr > before.psnr
            slack, idle = (min(0.2, 1.3 * slack), 0) if better else (max(0.004, 0.6 * slack), idle + 1)
            self.judge.save()
            yield report

    @property
    def _contends(self) -> bool:
        """Whether spacings of key steps are compared after they have learned weights."""
        return self.config.learns_gains and self.config.gradients

    def _most_promising(self, most: float) -> Candidate | None:
        """Of the best tables of whole steps the one that has most after a few iterations of its weights."""
        found = self._whole_steps(most)
        contenders = found[:CONTENDERS]
        place = next((i for i, one in enumerate(found) if self._is_shallow(one) != self._is_shallow(found[0])), 0)
        if place >= CONTENDERS:
            contenders[-1] = found[place]  # before weights are learned, one kind may look better throughout
        return self._best_soon(contenders)

    def _best_soon(self, contenders: list[Candidate]) -> Candidate | None:
        """The one that has most after a few iterations of its weights; the first where none are learned."""
        if len(contenders) < 2 or not self._contends:
            return next(iter(contenders), None)
        iterations = math.ceil(SHORT * self.config.gains)
        fitted = [self.judge.with_gains(one.table, iterations, self.num_probed) for one in contenders]
        best = max(range(len(fitted)), key=lambda i: self.judge.psnrs(fitted[i]).mean())
        return contenders[best]

    def _like(self, chosen: Candidate | None, most: float) -> list[Candidate]:
        """Of the best tables of whole steps the very best, and that which is spaced as what won among dearer ones."""
        found = [*self._whole_steps(most)[:1], self._spaced_like(chosen, most)]
        return list({id(one): one for one in found if one is not None}.values())

    def _spaced_like(self, chosen: Candidate | None, most: float) -> Candidate | None:
        """Of the best tables of whole steps that which is spaced as another; the best where none is."""
        found = self._whole_steps(most)
        if chosen is None or not self._contends:
            return next(iter(found), None)
        alike = [one for one in found if self._is_shallow(one) == self._is_shallow(chosen)] or found
        spaced = (one for one in alike if self._spacings_of(one) & self._spacings_of(chosen))
        return next(spaced, None) or next(iter(alike), None)

    def _is_shallow(self, candidate: Candidate) -> bool:
        """Whether a shallow step is among its key steps."""
        return "shallow" in self._key_steps[candidate.table.digest].provenance

    def _spacings_of(self, candidate: Candidate) -> set[tuple[float, float]]:
        """How its key steps may have been spaced."""
        return spacings_of(self._key_steps[candidate.table.digest].provenance["steps"], self.task.shape[0])

    def _best_of_whole_steps(self, most: float) -> Candidate | None:
        """The best table of key steps that costs at most so much."""
        return next(iter(self._whole_steps(most)), None)

    def _whole_steps(self, most: float) -> list[Candidate]:
        """Of the tables of key steps that cost at most so much those with most steps, the best first.

        Before weights are learned another step may seem to do harm, and is worth a decibel afterwards.
        """
        within = [digest for digest in self._key_steps if digest in self.candidates and self._counts[digest] <= most]
        number = {digest: len(self._key_steps[digest].provenance["steps"]) for digest in within}
        many = max(number.values(), default=0)
        found = (self.candidates[digest] for digest in within if number[digest] == many)
        return sorted(found, key=lambda one: -one.psnr)

    def _begin(self, targets: list[float]) -> None:
        """Measure key steps that cost about as much as the targets, and the tables to start from."""
        full = Table(np.full(self.task.shape, Action.compute, dtype=np.uint8))
        psnrs = np.full(self.config.num_validation, PSNR_CAP)
        cost = self.budget.cost_of(full.actions)
        self.candidates[full.digest] = Candidate(full, cost, psnrs, "the full run")
        inputs, schedules = (self.task.graph, self.task.timesteps, self.config.allowed), []
        stretches = [] if self.task.course is None else self.task.course.stretches
        for bound in sorted({bound for target in targets for bound in (target, *self._bounds(target))}):
            made = (s for kind in (False, True) for s in coarse_steps(*inputs, bound, self._counted, stretches, kind))
            spaced = {self._table_of(schedule).digest: schedule for schedule in made if self._fits(schedule)}
            best = sorted(spaced.values(), key=lambda s: -self.judge.psnrs(self._table_of(s)).mean())
            schedules += best[: None if self._contends else 1]
        for schedule in schedules:
            table = self._note(schedule)
            if table.digest not in self.candidates:
                self._keep(table, name_of(schedule, _number_of_steps(schedule)))
        for table in self._starts:  # what was given is measured in full, however far behind it begins
            if table.digest not in self.candidates:
                self._keep(table, "start")
        self.judge.save()

    def _try_steps(self, schedule: StepMask, rival: Candidate | None = None) -> Candidate | None:
        """Measure key steps; None if they are hopeless, or their cache too large."""
        self._note(schedule)
        return self._try_schedule(schedule, _number_of_steps(schedule), rival)

    def _note(self, schedule: StepMask) -> Table:
        """The table of key steps, which are known from now on."""
        table, counted = self._table_of(schedule), self._counted(schedule)
        self._key_steps[table.digest], self._counts[table.digest] = schedule, counted
        self._shallow_cost = max(self._shallow_cost, self._cost_of(schedule) - counted)
        return table

    def _counted(self, schedule: StepMask) -> float:
        """What key steps cost; where cells will be taken away, without a shallow step: it is worth more than those."""
        facts = schedule.provenance
        if self._refines and "shallow" in facts:
            schedule = key_steps(self.task.graph, self.task.timesteps, facts["steps"], forecast=facts.get("forecast"))
        return self._cost_of(schedule)

    def _fits(self, schedule: StepMask) -> bool:
        return self.budget.fits(self._table_of(schedule).actions)

    def _round(self, base: Candidate, level: float, slack: float, target: float) -> Generator[Round, None, Round]:
        """Measure what one probe of `base` proposes at a cost of at most `level`; the best learns its gains."""
        ranked = self._proposed(base, level, slack)
        name = f"round {self.num_probed - 1}"
        made = [(self._try(table, name), p) for table, p in ranked[: self._tuning.finalists]]
        made = [(candidate, predicted) for candidate, predicted in made if candidate is not None]
        best, predicted = max(made, key=lambda one: one[0].psnr, default=(None, math.nan))
        if best is not None and self.config.learns_gains:
            yield from self._fit(best.table, name, target)
        return Round(target, level, self.best(level), predicted, math.nan if best is None else best.psnr)

    def _base(self, target: float) -> Candidate | None:
        """The candidate near a target that promises most there, and has not been started from too often.

        What costs less than the target stays as it is: cells within whole steps can only be taken away. So the dearest
        comes first, unless it promises clearly less: it learned its weights for that.
        """
        tuning = self._tuning

        def worth(candidate: Candidate) -> float:
            way = math.log(target / candidate.cost)
            tried = self._tried.get((candidate.table.digest, target), 0)
            slope = tuning.slope_down if way < 0 else tuning.slope_up
            return candidate.psnr + slope * way - tuning.patience * tried

        low, high = (1 - self.config.slack) * target, tuning.over * target + self._shallow_cost
        near = [candidate for candidate in self.candidates.values() if low <= candidate.cost <= high]
        if self.config.learns_gains:  # elsewhere the errors are others
            near = [candidate for candidate in near if candidate.fitted]
        base = max(near, key=worth, default=None)
        if base is not None and not any(known == target for _, known in self._tried):
            close = [candidate for candidate in near if worth(candidate) > worth(base) - tuning.patience]
            base = max(close, key=lambda candidate: candidate.cost)
        if base is not None:
            key = (base.table.digest, target)
            self._tried[key] = self._tried.get(key, 0) + 1
        return base


def _number_of_steps(schedule: StepMask) -> str:
    shallow = " and a shallow one" if "shallow" in schedule.provenance else ""
    return f"{len(schedule.provenance['steps'])} steps{shallow}"
