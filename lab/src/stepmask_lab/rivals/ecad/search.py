"""The genetic search: masks as strings of bits, judged by the final images and by the MACs of their plans.

A search is a deterministic function of what it has measured, and every measurement is kept. So an interrupted one is
simply run again on the same file, and goes through what it knows in moments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepmask._files import write_atomically
from stepmask.errors import TargetError
from stepmask.family import MaskFamily, Member
from stepmask.learning._states import check_identity, damaged
from stepmask.learning.effort import Effort
from stepmask.learning.progress import show_generations
from stepmask.learning.riding import frozen
from stepmask.learning.setting import Setting
from stepmask.runtime.apply import apply
from stepmask.schedules import fora, random_schedule
from stepmask_lab.rivals.ecad.config import GeneticConfig
from stepmask_lab.rivals.ecad.nsga2 import children, survivors

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


def learn_genetic(
    pipe: Any,
    num_inference_steps: int,
    targets: Sequence[float],
    seed: int,
    call_kwargs: Mapping[str, Any] | None,
    resume: str | Path | None,
    callback: Callable[[Generation], None] | None,
    progress: bool,
    config: GeneticConfig,
) -> MaskFamily:
    """The best binary masks at each target by a genetic search (ECAD, Aggarwal et al. 2025, arXiv 2506.15682).

    Taken from there: NSGA-II over tables of steps x blocks, two objectives, quality on a few calibration prompts and
    MACs; regular and random tables to begin with; tournaments, four-point crossover, mutation of single cells. What
    differs: quality is the mean PSNR against the full run from the same noise, theirs Image Reward, which needs no full
    run; MACs are those of the plan, after elimination; a population of 24 for 40 generations by default, and 4 images,
    where they take 100 prompts and hundreds of generations on a cluster. See `stepmask.learn` for the arguments.

    Raises:
        TargetError: A target is no share, below the floor, or no mask was found within it.
    """
    effort = Effort()
    search = _Search(Setting(pipe, num_inference_steps, seed, call_kwargs, config), resume, effort)
    for target in targets:
        search.setting.budget.check_target(target, search.setting.shape[0])
    with (
        effort.counting(search.setting.denoiser),
        frozen(search.setting.denoiser),
        show_generations(progress, config.generations + 1) as show,
    ):
        for number in search.run():
            best = search.best(targets[-1])
            psnr, macs = (float("nan"), float("nan")) if best is None else search.measured[best]
            report = Generation(number, config.generations, psnr, macs)
            show(report)
            if callback is not None:
                callback(report)
        return search.family(targets)


class _Search:
    """One search; masks go by their genes, in hexadecimal."""

    def __init__(self, setting: Setting, resume: str | Path | None, effort: Effort) -> None:
        self.setting, self.config, self._effort = setting, setting.config, effort
        self._path = None if resume is None else Path(resume)
        self._rows, self._blocks = setting.shape[0], list(setting.graph.blocks)
        self._full: dict[int, torch.Tensor] = {}
        self.measured: dict[str, tuple[float, float]] = {}
        """Mean PSNR in dB and cost, by genes."""
        if self._path is not None:
            self._load() if self._path.exists() else self._save()  # says early if it cannot be written

    def run(self) -> Any:
        """Go through the generations; yields the number of each, 0 for the first."""
        population = self._first()
        objectives = self._objectives(population)
        yield 0
        for number in range(1, self.config.generations + 1):
            generator = np.random.default_rng([self.setting.seed, number])
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

    def _mask(self, genes: str, psnr: float, target: float) -> Any:
        record = {
            "mean": round(psnr, 3),
            "held_back_images": self.config.num_checked,
            "calibration_mean": round(self.measured[genes][0], 3),
        }
        table = self._table(genes)
        return self.setting.mask(
            table,
            self.setting.noise.seeds(0, self.config.num_calibration + self.config.num_checked),
            method="ecad",
            target_macs=target,
            cache_bytes_per_image=self.setting.cache_bytes(table),
            psnr=record,
            masks_tried=len(self.measured),
            **self._effort.facts(),
        )

    def _first(self) -> np.ndarray:
        """(population, genes) regular schedules, then random ones."""
        setting, size = self.setting, self.config.population
        masks = [fora(setting.graph, setting.timesteps, k) for k in range(2, min(self._rows, MAX_INTERVAL) + 1)]
        masks = masks[: size // 2]
        for number, density in enumerate(np.linspace(*DENSITIES, size - len(masks))):
            seed = setting.seed * size + number
            masks.append(random_schedule(setting.graph, setting.timesteps, float(density), seed))
        return np.stack([mask.compute[1:, self._blocks].ravel() for mask in masks])

    def _objectives(self, population: np.ndarray) -> np.ndarray:
        """(N, 2) cost and negative PSNR; measures what is not known yet."""
        found = []
        for row in population:
            genes = np.packbits(row).tobytes().hex()
            if genes not in self.measured:
                table = self._table(genes)
                self.measured[genes] = self._psnr(table, 0, self.config.num_calibration), self.setting.cost(table)
                self._save()
            psnr, cost = self.measured[genes]
            found.append((cost, -psnr))
        return np.array(found)

    def _table(self, genes: str) -> np.ndarray:
        """(T, B) bool."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(genes), dtype=np.uint8), count=self._num_genes)
        compute = np.ones(self.setting.shape, dtype=bool)
        compute[1:, self._blocks] = bits.astype(bool).reshape(self._rows - 1, len(self._blocks))
        return compute

    @property
    def _num_genes(self) -> int:
        return (self._rows - 1) * len(self._blocks)

    def _psnr(self, table: np.ndarray, first: int, count: int) -> float:
        """Mean PSNR in dB of numbered images under a table."""
        noise = self.setting.noise
        if first not in self._full:
            self._full[first] = noise.images(first, count)
        with apply(self.setting.pipe, self.setting.bare(table)):
            images = noise.images(first, count)
        return float(noise.psnrs(images, self._full[first]).mean())

    def _save(self) -> None:
        if self._path is not None:
            content = {"stepmask_genetic": self.setting.identity(), "measured": self.measured}
            write_atomically(self._path, json.dumps(content | {"effort": self._effort.facts()}))

    def _load(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            before, measured = content["stepmask_genetic"], content["measured"]
            self.measured = {genes: (float(psnr), float(cost)) for genes, (psnr, cost) in measured.items()}
            self._effort.go_on_from(content["effort"])
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise damaged(self._path, "search", error) from error
        check_identity(self._path, "search", before, self.setting.identity())
