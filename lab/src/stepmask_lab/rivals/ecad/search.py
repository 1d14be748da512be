"""The genetic search: masks as strings of bits, judged by the final images and by the MACs of their plans.

A search is a deterministic function of what it has measured, and every measurement is kept. So an interrupted one is
simply run again on the same file, and goes through what it knows in moments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stepmask.errors import TargetError
from stepmask.family import MaskFamily, Member
from stepmask.learning.budget import Budget
from stepmask.learning.interception import frozen
from stepmask.learning.job import Job
from stepmask.learning.refusals import check_learnable
from stepmask.liveness import rows_of
from stepmask.mask import StepMask
from stepmask.schedules import fora
from stepmask_lab.rivals.ecad.nsga2 import children, survivors
from stepmask_lab.schedules import random_schedule

MAX_INTERVAL = 7
"""Of the regular schedules in the first generation."""

DENSITIES = (0.2, 0.9)
"""Of the random ones: least and greatest share of cells that compute."""


@dataclass(frozen=True)
class Generation:
    """What a callback gets after each generation."""

    number: int
    num_generations: int
    psnr: float
    """Mean PSNR in dB, on the calibration images, of the best mask within the last target; NaN where there is none."""
    macs: float
    """What it costs."""

    def __str__(self) -> str:
        """How the search stands, in a few words."""
        return "none within the target yet" if math.isnan(self.psnr) else f"best {self.psnr:.1f} dB at {self.macs:.1%}"


def learn(job: Job) -> StepMask | MaskFamily:
    """The best binary masks at each target by a genetic search (ECAD, Aggarwal et al. 2025, arXiv 2506.15682).

    Taken from there: NSGA-II over tables of steps x blocks, two objectives, quality on a few calibration prompts and
    MACs; regular and random tables to begin with; tournaments, four-point crossover, mutation of single cells. What
    differs: quality is the mean PSNR against the full run from the same noise, theirs Image Reward, which needs no full
    run; MACs are those of the plan, after elimination; a population of 24 for 40 generations by default, and 4 images,
    where they take 100 prompts and hundreds of generations on a cluster.

    Raises:
        TargetError: A target is no share, below the floor, or no mask was found within it.
    """
    goals = job.goals
    targets = (goals.target_macs,) if goals.targets is None else sorted(set(goals.targets), reverse=True)
    search = _Search(job, targets)
    generations = job.config.generations
    with (
        frozen(job.task.denoiser),
        job.reporting(generations + 1, "evolving", "measuring the first generation") as tell,
    ):
        for number in search.run():
            best = search.best(targets[-1])
            psnr, macs = (float("nan"), float("nan")) if best is None else search.measured[best]
            tell(Generation(number, generations, psnr, macs))
        family = search.family(targets)
    return family if goals.targets is not None else family.at(goals.target_macs)


class _Search:
    """One search; masks go by their genes, in hexadecimal."""

    def __init__(self, job: Job, targets: Sequence[float]) -> None:
        check_learnable(job.task.pipe)
        self.task, self.config, self._targets = job.task, job.config, targets
        self.budget = Budget(job.task.graph, job.task.costs)
        for target in targets:
            self.budget.check_target(target, job.task.shape[0])
        self._rows, self._blocks = job.task.shape[0], list(job.task.graph.blocks)
        self._full: dict[int, torch.Tensor] = {}
        self._checkpoint = job.checkpoint()
        found = self._checkpoint.values.setdefault("measured", {})
        self.measured: dict[str, tuple[float, float]] = {genes: (psnr, cost) for genes, (psnr, cost) in found.items()}
        """Mean PSNR in dB and cost, by genes."""

    def run(self) -> Any:
        """Go through the generations; yields the number of each, 0 for the first."""
        population = self._first()
        objectives = self._objectives(population)
        yield 0
        for number in range(1, self.config.generations + 1):
            generator = np.random.default_rng([self.task.seed, number])
            rates = self.config.crossover_rate, self.config.mutation_rate
            both = np.concatenate([population, children(population, objectives, generator, *rates)])
            both = both[np.sort(np.unique(both, axis=0, return_index=True)[1])]
            found = self._objectives(both)
            chosen = survivors(found, self.config.population)
            population, objectives = both[chosen], found[chosen]
            yield number

    def best(self, target: float) -> str | None:
        """Genes of the best mask found that costs at most `target`."""
        within = [genes for genes, (_, cost) in self.measured.items() if cost <= target]
        return max(within, key=lambda genes: self.measured[genes][0], default=None)

    def family(self, targets: Sequence[float]) -> MaskFamily:
        """The best mask at each target, measured on images that nothing was chosen on."""
        members = {}
        for target in targets:
            genes = self.best(target)
            if genes is None:
                least = min(cost for _, cost in self.measured.values())
                raise TargetError(
                    f"no mask within target_macs={target:g} was found, the cheapest costs {least:.4f}: ask for more, "
                    "or allow more generations"
                )
            if genes not in members:
                psnr = self._psnr(self._table(genes), self.config.num_calibration, self.config.num_checked)
                members[genes] = Member(self.measured[genes][1], psnr, self._mask(genes, psnr, target))
        return MaskFamily(tuple(members.values()))

    def _mask(self, genes: str, psnr: float, target: float) -> StepMask:
        record = {
            "mean": round(psnr, 3),
            "held_back_images": self.config.num_checked,
            "calibration_mean": round(self.measured[genes][0], 3),
        }
        seeds = self.task.noise.seeds(0, self.config.num_calibration + self.config.num_checked)
        found = {"target_macs": target, "psnr": record, "masks_tried": len(self.measured)}
        return self.task.mask(self._table(genes), **found, **self.task.facts(seeds))

    def _bare(self, table: np.ndarray) -> StepMask:
        """A mask without identity, to try."""
        return StepMask(compute=table, sites=self.task.graph.names, timesteps=self.task.timesteps)

    def _first(self) -> np.ndarray:
        """(population, genes) regular schedules, then random ones."""
        task, size = self.task, self.config.population
        masks = [fora(task.graph, task.timesteps, k) for k in range(2, min(self._rows, MAX_INTERVAL) + 1)]
        masks = masks[: size // 2]
        for number, density in enumerate(np.linspace(*DENSITIES, size - len(masks))):
            seed = task.seed * size + number
            masks.append(random_schedule(task.graph, task.timesteps, float(density), seed))
        return np.stack([mask.compute[1:, self._blocks].ravel() for mask in masks])

    def _objectives(self, population: np.ndarray) -> np.ndarray:
        """(N, 2) cost and negative PSNR; measures what is not known yet."""
        found = []
        for row in population:
            genes = np.packbits(row).tobytes().hex()
            if genes not in self.measured:
                table = self._table(genes)
                self.measured[genes] = (
                    self._psnr(table, 0, self.config.num_calibration),
                    self.budget.cost(rows_of(table)),
                )
                self._checkpoint.values["measured"] = self.measured
                self._checkpoint.save()
            psnr, cost = self.measured[genes]
            found.append((cost, -psnr))
        return np.array(found)

    def _table(self, genes: str) -> np.ndarray:
        """(T, B) bool."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(genes), dtype=np.uint8), count=self._num_genes)
        compute = np.ones(self.task.shape, dtype=bool)
        compute[1:, self._blocks] = bits.astype(bool).reshape(self._rows - 1, len(self._blocks))
        return compute

    @property
    def _num_genes(self) -> int:
        return (self._rows - 1) * len(self._blocks)

    def _psnr(self, table: np.ndarray, first: int, count: int) -> float:
        """Mean PSNR in dB of numbered images under a table."""
        noise = self.task.noise
        if first not in self._full:
            self._full[first] = noise.images(first, count)
        with self.task.apply(self._bare(table)):
            images = noise.images(first, count)
        return float(noise.psnrs(images, self._full[first]).mean())
