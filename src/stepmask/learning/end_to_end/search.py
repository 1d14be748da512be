"""End-to-end selection: tables of actions that bring the final image closest to the full run's, budget by budget.

Starts from every regular schedule, from key steps that suit the budget, from tables that are given and from the full
run, and improves. Key steps are moved for as long as that helps. Then each round takes the table that promises most,
probes what every switch in it would do to the final image (`probe`), lets `Selection` propose a few tables at the
target or on the way there, and measures them on fixed validation noise. Nothing is believed that was not measured: what
falls far behind on the first images is dropped, of the rest the best is taken. Knows no files, no progress bars.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stepmask.architectures import denoiser_of
from stepmask.cost import CostTable
from stepmask.errors import TargetError
from stepmask.learning.budget import TOLERANCE, Budget
from stepmask.learning.end_to_end.config import GlobalConfig
from stepmask.learning.end_to_end.measured import Measured
from stepmask.learning.end_to_end.portfolio import moved_steps, portfolio, spaced_steps
from stepmask.learning.end_to_end.probe import Probe, probe
from stepmask.learning.end_to_end.sizes import Sizes
from stepmask.learning.end_to_end.switches import Selection, settle
from stepmask.learning.noise import Noise
from stepmask.learning.riding import frozen
from stepmask.liveness import Plan, make_plan
from stepmask.mask import Action, StepMask
from stepmask.runtime.apply import apply
from stepmask.schedules import key_steps

VALIDATION, HELD_BACK, PROBES = 0, 20_000, 40_000
"""First image numbers of the three kinds of noise."""

PSNR_CAP = 80.0
"""dB. What an image counts for at most, the full run's included, whose error is 0."""

SLOPE_DOWN, SLOPE_UP = 20.0, 10.0
"""dB that a table is expected to lose on the way down to a target, or to win on the way up, per factor e in cost."""

PATIENCE_DB = 2.0
"""How much less a table counts each time that it has been started from."""

NEAR = (0.75, 1.15)
"""Tables of so many times the target's cost are started from in refining."""

FIRST_IMAGES, HOPELESS_DB = 2, 2.5
"""A candidate so many dB behind on the first images is not measured on the others."""

REACH, CLIMB_DB = 1.03, 4.0
"""Key steps that cost so many times the target are moved too, unless they are so many dB behind."""

FAR, NEARBY = math.inf, 1.0
PROPOSALS = (
    (0.0, 1.0, FAR), (0.4, 1.0, FAR), (0.8, 1.0, FAR), (0.0, 0.3, FAR), (0.4, 0.3, FAR), (0.8, 0.3, FAR),
    (0.0, 0.0, NEARBY), (0.4, 0.0, NEARBY), (0.4, 0.15, NEARBY), (0.8, 0.15, NEARBY / 2),
)  # fmt: skip
"""What each round tries: trust of `Selection`, and shares of the slack and of `MENDED`."""

MENDED = 0.35
"""How many cells may change between hold and forecast, as a share of all cells, times the slack."""

FINALISTS = 3
"""So many proposals of a round, the best on the first images, are measured on all."""


Objective = Callable[[torch.Tensor], torch.Tensor]
"""Of final latents, or images, (N, ...)."""


@dataclass(frozen=True)
class Candidate:
    """A table and what it was measured to give."""

    actions: np.ndarray
    cost: float
    psnrs: np.ndarray
    """PSNR in dB on the validation noise, per image; with an objective the ratio of its size to its error, in dB."""
    made_by: str

    @property
    def psnr(self) -> float:
        """The mean."""
        return float(self.psnrs.mean())


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
    """What the round's best proposal was predicted to have, in dB as in `Candidate`; NaN where key steps were moved."""
    true: float
    """What it was measured to have; NaN where none was better than hopeless."""


class GlobalSearch:
    """One pass of selection.

    Args:
        noise: Runs the pipeline.
        budget: Cost of plans in the unit of the targets.
        costs: Sizes of values, for the limit of the cache.
        timesteps: T timesteps of a run.
        config: Knobs.
        measured: Results so far.
        max_cache_bytes: Most bytes per image that a plan may keep; None for no limit.
        starts: Tables (T, B) of `Action`, settled, to start from too.
    """

    def __init__(
        self,
        noise: Noise,
        budget: Budget,
        costs: CostTable,
        timesteps: list[float],
        config: GlobalConfig,
        measured: Measured,
        max_cache_bytes: int | None = None,
        starts: Sequence[np.ndarray] = (),
    ) -> None:
        self._noise, self.budget, self._costs, self._timesteps = noise, budget, costs, timesteps
        self.config, self._measured, self._max_cache_bytes = config, measured, max_cache_bytes
        self._starts = {table.tobytes(): table for table in starts if self.fits(table)}
        self._full: dict[tuple[int, int], torch.Tensor] = {}
        self._tried: dict[tuple[bytes, float], int] = {}
        self._key_steps: dict[bytes, StepMask] = {}
        self._sizes = Sizes((len(timesteps), len(budget.graph)))
        self.num_rounds = 0
        """Rounds done."""
        self.candidates: dict[bytes, Candidate] = {}

    def run(self, targets: list[float]) -> Iterator[Round]:
        """Search at each target, most expensive first; yields after every round."""
        self._begin(targets)
        current = next(iter(self.candidates.values()))
        for target in targets:
            if not self.starts_at(target):
                current = yield from self._descend(current, target)
            yield from self._climb(target)
            yield from self._refine(target, self.config.rounds)
            current = self.best(target)
        for target in reversed(targets[:-1]):  # what was found below may be worth more than what was found there
            if self.best(target).cost < (1 - self.config.slack) * target:
                yield from self._refine(target, 1)

    def _descend(self, current: Candidate, target: float) -> Iterator[Round]:
        """Walk down to a target, some of the cost a round, on the best table of each level."""
        while current.cost > target:
            level = max(target, current.cost * (1 - self.config.shrink))
            level = target if level < 1.04 * target else level
            report = self._round(current, level, self.config.slack / 2, target)
            self._measured.save()
            yield report
            found = self.best(level) or min(self.candidates.values(), key=lambda candidate: candidate.cost)
            if found.cost > 0.995 * current.cost:
                raise TargetError(
                    f"no table below {current.cost:.3f} of the cost was found on the way to {target:g}: ask for more "
                    "of the cost or of the cache"
                )
            current = found
        return current

    def _climb(self, target: float) -> Iterator[Round]:
        """Move key steps of the best table of them, for as long as that helps."""
        within = [c for key, c in self.candidates.items() if key in self._key_steps and c.cost <= REACH * target]
        best = max(within, key=lambda candidate: candidate.psnr, default=None)
        if not self.config.num_moves or best is None or best.psnr < self.best(target).psnr - CLIMB_DB:
            return
        tried, seen = 0, set()
        while best is not None:
            schedule, start, best = self._key_steps[best.actions.tobytes()], best, None
            for steps in moved_steps(schedule.provenance["steps"], len(self._timesteps), seed=tried):
                if tuple(steps) in seen or tried >= self.config.num_moves:
                    continue
                seen.add(tuple(steps))
                tried += 1
                forecast = schedule.provenance.get("forecast")
                moved = self._try_schedule(
                    key_steps(self.budget.graph, self._timesteps, steps, forecast=forecast), start
                )
                if moved is not None and moved.psnr > start.psnr and moved.cost <= REACH * target:
                    best = moved
                    break
        self._measured.save()
        yield Round(target, target, self.best(target), math.nan, start.psnr)

    def _refine(self, target: float, rounds: int) -> Iterator[Round]:
        """Exchange cells at a target, and draw in tables from around it."""
        slack = self.config.slack
        for _ in range(rounds):
            before = self.best(target)
            base = self._base(target)
            report = self._round(base, max(target, base.cost * (1 - self.config.shrink)), slack, target)
            slack = min(0.2, 1.3 * slack) if self.best(target).psnr > before.psnr else max(0.004, 0.6 * slack)
            self._measured.save()
            yield report

    def starts_at(self, target: float) -> bool:
        """Whether a given table costs about as much, so that nothing has to be walked down to it."""
        return any(NEAR[0] * target <= self.budget.cost_of(table) <= target for table in self._starts.values())

    def best(self, target: float) -> Candidate | None:
        """The best candidate whose plan costs at most `target`."""
        within = [candidate for candidate in self.candidates.values() if candidate.cost <= target]
        return max(within, key=lambda candidate: candidate.psnr, default=None)

    def held_back(self, candidate: Candidate) -> np.ndarray:
        """PSNR in dB per image on noise that nothing was chosen on."""
        psnrs = self._psnrs(candidate.actions, HELD_BACK, self.config.num_held_back)
        self._measured.save()
        return psnrs

    def mask(self, actions: np.ndarray) -> StepMask:
        """A mask over all sites, without identity."""
        ones = np.ones(actions.shape, dtype=bool)
        blank = StepMask(compute=ones, sites=self.budget.graph.names, timesteps=self._timesteps)
        return blank.with_actions(actions)

    def fits(self, actions: np.ndarray) -> bool:
        """Whether a table's plan keeps no more than the cache may hold."""
        return (
            self._max_cache_bytes is None or self._costs.peak_cache_bytes(self._plan(actions)) <= self._max_cache_bytes
        )

    def _begin(self, targets: list[float]) -> None:
        """Measure the regular schedules near the targets, and the tables to start from."""
        full = np.full((len(self._timesteps), len(self.budget.graph)), Action.compute, dtype=np.uint8)
        psnrs = np.full(self.config.num_validation, PSNR_CAP)
        self.candidates[full.tobytes()] = Candidate(full, self.budget.cost_of(full), psnrs, "the full run")
        low, high = NEAR[0] * targets[-1], NEAR[1] * targets[0]
        inputs = self.budget.graph, self._timesteps, self.config.allowed
        schedules = [s for s in portfolio(*inputs) if low <= self._cost_of(s) <= high]
        schedules += [s for target in targets for s in spaced_steps(*inputs, target, self._cost_of)]
        for schedule in sorted(schedules, key=self._cost_of):  # what a cheaper one leaves far behind is dropped early
            self._try_schedule(schedule)
        for table in self._starts.values():
            self._try(table, "start")
        self._measured.save()

    def _try_schedule(self, schedule: StepMask, rival: Candidate | None = None) -> Candidate | None:
        """Measure a schedule; None if it is hopeless, or its cache too large."""
        actions = settle(schedule, self.budget).actions
        if not self.fits(actions):
            return None
        record = schedule.provenance
        if "steps" in record:
            self._key_steps[actions.tobytes()] = schedule
            kind = f"{len(record['steps'])} steps"
        else:
            kind = f"1:{record['interval']}"
        words = [record["method"], kind, record.get("forecast", "")]
        return self._try(actions, " ".join(filter(None, words)), rival)

    def _cost_of(self, schedule: StepMask) -> float:
        return self.budget.cost_of(settle(schedule, self.budget).actions)

    def _round(self, base: Candidate, level: float, slack: float, target: float) -> Round:
        """Propose tables of a cost of at most `level` from one probe of `base`, and measure them."""
        found = self._probe(base)
        sizes = self._sizes.average(base.actions, found.sizes, found.known)
        proposed: dict[bytes, tuple[np.ndarray, float]] = {}
        for trust, share, mended in PROPOSALS:
            selection = Selection(self.budget, base.actions, found, self.config.allowed, trust, self.fits, sizes)
            selection.shrink(min(level, base.cost) - share * slack * level)
            selection.grow(level)
            selection.mend(mended * slack * MENDED * base.actions.size)
            actions = settle(self.mask(selection.actions), self.budget).actions
            if self.fits(actions):
                proposed.setdefault(actions.tobytes(), (actions, base.psnr + selection.predicted))
        ranked = sorted(proposed.values(), key=lambda one: -self._first_psnrs(one[0]).mean())
        made = [(self._try(actions, f"round {self.num_rounds}"), p) for actions, p in ranked[:FINALISTS]]
        self.num_rounds += 1
        true, predicted = max(((c.psnr, p) for c, p in made if c is not None), default=(math.nan, math.nan))
        return Round(target, level, self.best(level), predicted, true)

    def _base(self, target: float) -> Candidate:
        """The candidate near a target that promises most there, and has not been started from too often."""

        def worth(candidate: Candidate) -> float:
            way = math.log(target / candidate.cost)
            tried = self._tried.get((candidate.actions.tobytes(), target), 0)
            return candidate.psnr + (SLOPE_DOWN if way < 0 else SLOPE_UP) * way - PATIENCE_DB * tried

        near = [c for c in self.candidates.values() if NEAR[0] * target <= c.cost <= NEAR[1] * target]
        base = max(near, key=worth, default=self.best(target))
        key = (base.actions.tobytes(), target)
        self._tried[key] = self._tried.get(key, 0) + 1
        return base

    def _try(self, actions: np.ndarray, made_by: str, rival: Candidate | None = None) -> Candidate | None:
        """Measure a table; None if it fell too far behind on the first images to be measured on all.

        Behind the best that costs no more; behind `rival`, where one is given, at all.
        """
        key = actions.tobytes()
        if key in self.candidates:
            return self.candidates[key]
        cost = self.budget.cost_of(actions)
        first, psnrs = FIRST_IMAGES, self._first_psnrs(actions)
        behind = 0.0 if rival is not None else HOPELESS_DB
        rival = rival or self.best(cost + TOLERANCE)
        if rival is not None and psnrs.mean() < rival.psnrs[:first].mean() - behind:
            return None
        rest = self._psnrs(actions, VALIDATION + first, self.config.num_validation - first, self.config.objective)
        candidate = Candidate(actions, cost, np.concatenate([psnrs, rest]), made_by)
        self.candidates[key] = candidate
        return candidate

    def _first_psnrs(self, actions: np.ndarray) -> np.ndarray:
        return self._psnrs(actions, VALIDATION, FIRST_IMAGES, self.config.objective)

    def _psnrs(self, actions: np.ndarray, first: int, count: int, objective: Objective | None = None) -> np.ndarray:
        """PSNR in dB of numbered images under a table, or what the objective says of them."""
        key = f"{first}.{count}.{hashlib.sha256(actions.tobytes()).hexdigest()[:24]}"
        known = self._measured.psnrs(key)
        if known is not None:
            return known
        with frozen(denoiser_of(self._noise.pipe)):
            if (first, count) not in self._full:
                self._full[first, count] = self._sampled(first, count, objective)
            with apply(self._noise.pipe, self._plan(actions)):
                found = self._sampled(first, count, objective)
        ratio = self._noise.psnrs if objective is None else size_over_error
        psnrs = np.minimum(ratio(found, self._full[first, count]), PSNR_CAP)
        self._measured.keep_psnrs(key, psnrs)
        return psnrs

    def _sampled(self, first: int, count: int, objective: Objective | None) -> torch.Tensor:
        if objective is None:
            return self._noise.images(first, count)
        return objective(self._noise.latents(first, count)).detach()

    def _probe(self, base: Candidate) -> Probe:
        """What every switch in a table would do, on noise of its own."""
        count, first = self.config.num_probes, PROBES + self.num_rounds * self.config.num_probes
        key = f"{first}.{hashlib.sha256(base.actions.tobytes()).hexdigest()[:24]}"
        found = self._measured.probe(key)
        if found is None:
            features: Objective = self.config.objective or (lambda images: images)
            with frozen(denoiser_of(self._noise.pipe)):
                target = features(self._noise.latents(first, count)).detach()
                found = probe(
                    self._noise.pipe,
                    self._plan(base.actions),
                    lambda copies: self._noise.latents(first, count, copies),
                    target,
                    self.config.num_projections,
                    seed=first,
                    features=features,
                    fresh=True,
                    device="cpu" if self.config.offload else None,
                )
            self._measured.keep_probe(key, found)
            self._measured.save()
        return found

    def _plan(self, actions: np.ndarray) -> Plan:
        return make_plan(self.mask(actions), self.budget.graph)


def size_over_error(found: torch.Tensor, wanted: torch.Tensor) -> np.ndarray:
    """(N,) ratio in dB of the squares of what is wanted, (N, ...), to those of the error."""
    size, error = (values.flatten(1).double().square().sum(1).cpu() for values in (wanted, found - wanted))
    return (10 * (size.clamp_min(1e-12) / error.clamp_min(1e-12)).log10()).numpy()
