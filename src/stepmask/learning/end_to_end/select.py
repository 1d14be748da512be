"""Masks by end-to-end selection: turns what users ask for into a search, and what it found into masks.

Users ask for a share of the MACs, for a speed-up, for a PSNR, for a limit of the cache, or for several budgets at
once. What is reported was measured on held-back noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from stepmask.cost import CostTable
from stepmask.errors import TargetError
from stepmask.family import MaskFamily, Member
from stepmask.inspection.costs import measure_cost
from stepmask.inspection.describe import describe
from stepmask.inspection.registry import denoiser_of
from stepmask.learning._identity import comparable, weights_digest
from stepmask.learning.budget import Budget
from stepmask.learning.effort import Effort
from stepmask.learning.end_to_end.config import GlobalConfig
from stepmask.learning.end_to_end.judge import LEAST_PROBES, PROBES, Judge
from stepmask.learning.end_to_end.measured import Measured
from stepmask.learning.end_to_end.search import GlobalSearch, Round
from stepmask.learning.end_to_end.start import Start, list_of, table_of
from stepmask.learning.end_to_end.tables import Candidate, Table
from stepmask.learning.noise import Noise
from stepmask.learning.riding import check_learnable, check_run_differentiable
from stepmask.liveness import make_plan
from stepmask.mask import StepMask, scheduler_identity

PSNR_LADDER = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15)
"""Costs that a search for the cheapest mask of a PSNR goes through."""

SPACING = 0.015
"""Masks of a family differ by at least so much in cost."""

CHANGEABLE = ("images_per_call", "offload", "graph_bytes", "num_held_back")
"""Options that say nothing about the way of a search, so that it may go on with others: less memory for example."""


@dataclass(frozen=True)
class Asked:
    """What a user asks for; exactly one of the first four."""

    target_macs: float | None = None
    target_speedup: float | None = None
    min_psnr: float | None = None
    targets: tuple[float, ...] | None = None
    max_cache_bytes: int | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("target_macs", "target_speedup", "min_psnr", "targets") if getattr(self, n) is not None]
        if len(given) != 1:
            raise TargetError(
                f"ask for one of target_macs, target_speedup, min_psnr and targets, got {', '.join(given) or 'none'}"
            )
        if self.targets is not None and not self.targets:
            raise TargetError("targets must name at least one share of the full run, such as (0.6, 0.4)")
        if self.target_speedup is not None and not (_number(self.target_speedup) and 1 <= self.target_speedup < 1e6):
            raise TargetError(f"target_speedup is a factor of at least 1, such as 1.8, got {self.target_speedup!r}")
        if self.min_psnr is not None and not (_number(self.min_psnr) and 0 < self.min_psnr < 80):
            raise TargetError(f"min_psnr is in dB, between 0 and 80, got {self.min_psnr!r}")
        if self.max_cache_bytes is not None and not (_number(self.max_cache_bytes) and self.max_cache_bytes > 0):
            raise TargetError(f"max_cache_bytes must be a positive number of bytes, got {self.max_cache_bytes!r}")

    def shares(self) -> list[float]:
        """Budgets as shares of the full run's cost, most expensive first."""
        if self.target_macs is not None:
            return [self.target_macs]
        if self.target_speedup is not None:
            return [1 / self.target_speedup]
        return sorted(set(self.targets if self.targets is not None else PSNR_LADDER), reverse=True)

    def to_dict(self) -> dict[str, Any]:
        """What was given, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class Selecting:
    """One search for one pipeline."""

    def __init__(
        self,
        pipe: Any,
        num_inference_steps: int,
        asked: Asked,
        seed: int,
        call_kwargs: Mapping[str, Any] | None,
        config: GlobalConfig,
        resume: Path | None,
        effort: Effort | None = None,
        start: Start | None = None,
    ) -> None:
        start = list_of(start)
        self.pipe, self.asked, self.seed, self.config = pipe, asked, seed, config
        self.num_inference_steps, self.num_starts = num_inference_steps, len(start)
        self.denoiser = denoiser_of(pipe)
        check_learnable(pipe)
        check_run_differentiable(pipe)
        self.graph = describe(pipe, call_kwargs=call_kwargs)
        self.call_kwargs = dict(call_kwargs or {})
        self.scheduler = scheduler_identity(pipe.scheduler)
        measured = Measured(resume, self._identity(start), effort)
        self.cost = self._cost(measured)
        unit = "latency" if asked.target_speedup is not None else "macs"
        self.budget = Budget(self.graph, self.cost, unit)
        self.noise = Noise(pipe, num_inference_steps, seed, self.call_kwargs)
        self.timesteps = self.noise.timesteps()
        self.targets = asked.shares()
        floor = self.budget.floor(len(self.timesteps))
        if asked.min_psnr is not None:
            self.targets = [share for share in self.targets if share > 1.1 * floor] or [1.0]
        if asked.target_speedup is not None and self.targets[0] < floor:
            raise TargetError(
                f"target_speedup={asked.target_speedup:g} cannot be reached: computing only the first of "
                f"{len(self.timesteps)} steps makes the denoiser {1 / floor:.2f} times as fast; ask for less"
            )
        for target in self.targets:
            self.budget.check_target(target, len(self.timesteps))
        starts = [table_of(mask, self.budget, self.timesteps, config.allowed) for mask in start]
        self.judge = Judge(self.noise, self.budget, self.timesteps, config, measured)
        self.search = GlobalSearch(
            self.judge, self.budget, self.cost, self.timesteps, config, asked.max_cache_bytes, starts
        )

    def _cost(self, measured: Measured) -> CostTable:
        """MACs, and latencies where they are asked for: those of an interrupted search are kept."""
        timed = self.asked.target_speedup is not None
        known = measured.latencies()
        at_once = {} if self.config.images_per_call is None else {"batch_size": self.config.images_per_call}
        cost = measure_cost(self.pipe, call_kwargs=self.call_kwargs, latency=timed and known is None, **at_once)
        if not timed:
            return cost
        if known is None:
            measured.keep_latencies(np.append(cost.latency_ms, cost.always_latency_ms))
            return cost
        return replace(cost, latency_ms=known[:-1], always_latency_ms=float(known[-1]))

    @property
    def num_rounds(self) -> int:
        """Rounds of the whole search, if each on the way down gets as far as it may and every second is made again."""
        walked = [target for target in self.targets if not self.search.starts_at(target)]
        down = math.log(min(walked, default=1.0)) / math.log(1 - self.config.shrink)
        return math.ceil(1.5 * down) + len(self.targets) * (self.config.rounds + self._num_others)

    @property
    def _num_others(self) -> int:
        """At each target at most: moves of key steps, and fits of gains."""
        return int(self.config.num_moves > 0) + (3 if self.config.learns_gains else 0)

    def run(self, report: Callable[[Round], None]) -> None:
        """Search at all targets; with ``min_psnr`` until a target has less."""
        self.judge.check_objective()
        enough, before = self.asked.min_psnr, None
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
        if self.asked.min_psnr is None:
            return self._finish(self.search.best(self.targets[-1]))
        for candidate in reversed(self._frontier()):
            enough = self.asked.min_psnr
            if self._psnr(candidate) >= enough and self.judge.held_back(candidate.table).mean() >= enough:
                return self._finish(candidate)
        raise TargetError(
            f"min_psnr={self.asked.min_psnr:g} was not reached below the full run: ask for less, or allow more rounds"
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
        held_back = self.judge.held_back(candidate.table)
        bare = self.search.mask(candidate.table)
        plan = make_plan(bare, self.graph)
        half_width = student_t_95(len(held_back) - 1) * float(held_back.std(ddof=1)) / math.sqrt(len(held_back))
        mean = float(held_back.mean())
        probed = max(self.search.num_probed + 1, LEAST_PROBES if self.config.learns_gains else 0)
        seeds = self.noise.seeds(0, PROBES + probed * self.config.num_probes)
        provenance = {
            "method": "global",
            "num_inference_steps": self.num_inference_steps,
            "asked": self.asked.to_dict(),
            "cost": round(candidate.cost, 6),
            "macs": round(self.cost.fraction(plan), 6),
            "cache_bytes_per_image": self.cost.peak_cache_bytes(plan),
            "psnr": {
                "mean": round(mean, 3),
                "confidence_95": [round(mean - half_width, 3), round(mean + half_width, 3)],
                "worst": round(float(held_back.min()), 3),
                "held_back_images": len(held_back),
                **({"validation_mean": round(candidate.psnr, 3)} if self.config.objective is None else {}),
            },
            "made_by": candidate.made_by,
            **({"started_from_masks": self.num_starts} if self.num_starts else {}),
            "seed": self.seed,
            "noise_seeds": [seeds[0], seeds[-1]],
            "guidance_scale": self.call_kwargs.get("guidance_scale"),
            "model": type(self.denoiser).__name__,
            "config": {**self._knobs(), "objective": None if self.config.objective is None else "given"},
        }
        return replace(bare, scheduler=self.scheduler, graph=self.graph.fingerprint, provenance=provenance)

    def _knobs(self) -> dict[str, Any]:
        return {field.name: getattr(self.config, field.name) for field in fields(self.config)}

    def _identity(self, start: list[StepMask]) -> dict[str, Any]:
        """What must be the same for a search to go on."""
        fixed = {name: value for name, value in self._knobs().items() if name not in CHANGEABLE}
        sums = [Table(mask.actions, mask.gains, mask.channel_gains).digest for mask in start]
        return {
            **({"start": sums} if sums else {}),
            "config": {**fixed, "objective": _name_of(self.config.objective)},
            "asked": self.asked.to_dict(),
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "graph": self.graph.fingerprint,
            "weights": weights_digest(self.denoiser),
            "call_kwargs": {name: comparable(value) for name, value in sorted(self.call_kwargs.items())},
        }


def _name_of(objective: Any) -> str | None:
    """What tells one objective from another, in every process: where it lies in memory does not."""
    if objective is None:
        return None
    objective = getattr(objective, "func", objective)  # of functools.partial
    return getattr(objective, "__qualname__", type(objective).__qualname__)


def student_t_95(degrees: int) -> float:
    """97.5% quantile of Student's t, by its expansion around the normal one (Abramowitz and Stegun, 26.7.5).

    Of fewer than 5 degrees of freedom, where the expansion is too small, by the same book's Table 26.10.
    """
    few = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
    if degrees in few:
        return few[degrees]
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
