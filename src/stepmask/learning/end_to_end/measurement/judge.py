"""Runs tables in the user's pipeline and remembers what came of it: PSNR against the full run, probes, gains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from stepmask.errors import StepMaskError
from stepmask.learning.budget import Budget
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.end_to_end.gradients.gains import GainFit
from stepmask.learning.end_to_end.gradients.probe import Probe, probe
from stepmask.learning.end_to_end.measurement.measurements import Measurements
from stepmask.learning.end_to_end.tables import Table
from stepmask.learning.interception import frozen
from stepmask.liveness import Plan, make_plan
from stepmask.runtime.task import Task

VALIDATION, HELD_BACK, PROBES = 0, 20_000, 40_000
"""First image numbers of the three kinds of noise."""

PSNR_CAP = 80.0
"""dB. What an image counts for at most, the full run's included, whose error is 0."""

FIRST_IMAGES = 2
"""So many images of the validation noise are what every candidate is measured on."""

LEAST_PROBES, MOST_PROBES = 4, 16
"""Gains are fitted on the noise of the probes so far, of at least and at most so many; what the full run makes of it is
kept."""

Objective = Callable[[torch.Tensor], torch.Tensor]
"""Of final latents, or images, (N, ...)."""


class Judge:
    """What tables do to the final images.

    Args:
        task: The pipeline to be learned on.
        budget: Costs of plans.
        config: Options of the search.
        checkpoint: Where what was measured is kept, and read from.
    """

    def __init__(self, task: Task, budget: Budget, config: EndToEnd, checkpoint: Checkpoint) -> None:
        self._noise, self._timesteps, self._denoiser = task.noise, task.timesteps, task.denoiser
        self._apply = task.apply
        self._budget, self._config, self._checkpoint = budget, config, checkpoint
        self._measured = Measurements(checkpoint.arrays)
        self._full: dict[tuple[int, int, bool], torch.Tensor] = {}
        self._wanted: dict[int, torch.Tensor] = {}

    def check_objective(self) -> None:
        """See that the objective is one, and that which the measurements so far were made by.

        Raises:
            StepMaskError: It says nothing about images, or was another before.
        """
        if self._objective is None:
            return
        which = VALIDATION, FIRST_IMAGES, False
        with frozen(self._denoiser):
            found = self._full[which] = self._sampled(*which[:2], self._objective)
        facts = np.array([found.double().mean().item(), found.double().std().item()])
        if not np.isfinite(facts).all():
            raise StepMaskError("the objective makes NaN or infinite values of what the full run makes, or that does")
        if facts[1] == 0:
            raise StepMaskError(f"the objective makes {facts[0]:g} of everything, so no image is closer than another")
        before = self._checkpoint.arrays.get("objective")
        if before is not None and not np.allclose(before, facts, rtol=0.02, atol=0):
            raise StepMaskError(
                "the search that is resumed had another objective: of the same images it made values of mean "
                f"{before[0]:.4g} and spread {before[1]:.4g}, now {facts[0]:.4g} and {facts[1]:.4g}; give the same "
                "objective, or another file"
            )
        self._checkpoint.arrays["objective"] = facts  # functions that do other things may have one name

    def save(self) -> None:
        """Keep all that was measured."""
        self._checkpoint.save()

    def first_psnrs(self, table: Table) -> np.ndarray:
        """PSNR in dB of the first validation images, or what the objective says of them, per image."""
        return self._psnrs(table, VALIDATION, FIRST_IMAGES, self._objective)

    def psnrs(self, table: Table) -> np.ndarray:
        """The same of all validation images, per image."""
        first, count = self.first_psnrs(table), self._config.num_validation - FIRST_IMAGES
        rest = self._psnrs(table, VALIDATION + FIRST_IMAGES, count, self._objective)
        return np.concatenate([first, rest])

    def held_back(self, table: Table) -> np.ndarray:
        """PSNR in dB per image on noise that nothing was chosen on."""
        most, end = self._config.num_validation, HELD_BACK + self._config.num_held_back
        parts = [self._psnrs(table, first, min(most, end - first), None) for first in range(HELD_BACK, end, most)]
        self.save()
        return np.concatenate(parts)

    def probe(self, table: Table, number: int) -> Probe:
        """What every switch in a table would do, on noise of its own for each number."""
        count, first = self._config.num_probes, PROBES + number * self._config.num_probes
        key = f"{first}.{table.digest}"
        found = self._measured.probe(key)
        if found is None:
            plan = make_plan(table.mask(self._budget, self._timesteps), self._budget.graph)
            found = Probe.of_parts([self._probe(plan, *part) for part in self._parts(first, count)])
            self._measured.keep_probe(key, found)
            self.save()
        return found

    def with_gains(self, table: Table, iterations: int, fits: Callable[[np.ndarray], bool], num_probed: int) -> Table:
        """The table with gains of its forecasts learned; itself where there is none to learn.

        Gains that are there already go on with half of the iterations. Each iteration runs on half of a probe's noise,
        in turns through that of the probes so far, since the full run has been there already.
        """
        iterations = math.ceil(iterations / 2) if table.has_gains else iterations
        key = f"{iterations}.{table.digest}"
        known = self._measured.gains(key)
        if known is None:
            mask = table.mask(self._budget, self._timesteps)
            fit = GainFit(mask, self._budget, iterations, fits, self._config.channel_gains, self._config.tuning)
            count = max(1, self._config.num_probes // 2)
            num_batches = min(max(num_probed, LEAST_PROBES), MOST_PROBES) * self._config.num_probes // count
            for iteration in range(iterations if fit.num_gains else 0):
                first = PROBES + iteration % num_batches * count
                batches = [
                    (partial(self._noise.latents, *part), self._features_of_full_run(*part))
                    for part in self._parts(first, count)
                ]
                fit.step(self._noise.pipe, batches, self._features, self._waiting, self._config.graph_bytes)
            found = Table.of(fit.mask, self._budget) if fit.num_gains else table
            known = found.actions, found.gains, found.channel_gains
            self._measured.keep_gains(key, *known)
            self.save()
        return Table(*known)

    def _parts(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Numbers of images that may run at once: the first, and how many."""
        most = self._config.images_per_call or count
        return ((start, min(most, first + count - start)) for start in range(first, first + count, most))

    def _probe(self, plan: Plan, first: int, count: int) -> Probe:
        return probe(
            self._noise.pipe,
            plan,
            lambda copies: self._noise.latents(first, count, copies),
            self._features_of_full_run(first, count),
            self._config.num_projections,
            seed=first,
            features=self._features,
            fresh=True,
            device=self._waiting,
            graph_bytes=self._config.graph_bytes,
        )

    @property
    def _objective(self) -> Objective | None:
        """The user's, whose values are checked."""
        given = self._config.objective
        return None if given is None else partial(_rows_of, given)

    @property
    def _features(self) -> Objective:
        return self._objective or (lambda images: images)

    @property
    def _waiting(self) -> str | None:
        """Where values wait between the passes of a probe."""
        return "cpu" if self._config.offload else None

    def _features_of_full_run(self, first: int, count: int) -> torch.Tensor:
        """(count, ...) what shall be reached from numbered noise; kept by image of the first probes, for gains."""
        images = range(first, first + count)
        if all(image in self._wanted for image in images):
            return torch.stack([self._wanted[image] for image in images])
        with frozen(self._denoiser):
            found = _unbroken(self._features(self._noise.latents(first, count)).detach())
        if self._config.learns_gains and images.stop <= PROBES + MOST_PROBES * self._config.num_probes:
            self._wanted.update(zip(images, found, strict=True))
        return found

    def _psnrs(self, table: Table, first: int, count: int, objective: Objective | None) -> np.ndarray:
        """PSNR in dB of numbered images under a table, or what the objective says of them."""
        key = f"{first}.{count}.{table.digest}"
        known = self._measured.psnrs(key)
        if known is not None:
            return known
        which = first, count, objective is None
        with frozen(self._denoiser):
            if which not in self._full:
                self._full[which] = _unbroken(self._sampled(first, count, objective))
            plan = make_plan(table.mask(self._budget, self._timesteps), self._budget.graph)
            with self._apply(plan):
                found = self._sampled(first, count, objective)
        ratio = self._noise.psnrs if objective is None else size_over_error
        psnrs = np.minimum(np.nan_to_num(ratio(found, self._full[which]), nan=-PSNR_CAP), PSNR_CAP)
        self._measured.keep_psnrs(key, psnrs)
        return psnrs

    def _sampled(self, first: int, count: int, objective: Objective | None) -> torch.Tensor:
        parts = self._parts(first, count)
        if objective is None:
            return torch.cat([self._noise.images(*part) for part in parts])
        return torch.cat([objective(self._noise.latents(*part)).detach() for part in parts])


def _rows_of(objective: Objective, latents: torch.Tensor) -> torch.Tensor:
    """What an objective makes of latents (N, ...).

    Raises:
        StepMaskError: It is no tensor with N rows.
    """
    found = objective(latents)
    if not isinstance(found, torch.Tensor) or found.dim() == 0 or len(found) != len(latents):
        got = f"one of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else repr(found)[:80]
        raise StepMaskError(
            f"objective must return a tensor with a row for each of the {len(latents)} images, got {got}"
        )
    return found


def _unbroken(wanted: torch.Tensor) -> torch.Tensor:
    """What the full run makes, unless it is broken.

    Raises:
        StepMaskError: There are NaNs or infinite values in it.
    """
    if not wanted.isfinite().all():
        raise StepMaskError("the full run makes NaN or infinite values: does it in float16? Try bfloat16")
    return wanted


def size_over_error(found: torch.Tensor, wanted: torch.Tensor) -> np.ndarray:
    """(N,) ratio in dB of the squares of what is wanted, (N, ...), to those of the error."""
    size, error = (values.flatten(1).double().square().sum(1).cpu() for values in (wanted, found - wanted))
    return (10 * (size.clamp_min(1e-12) / error.clamp_min(1e-12)).log10()).numpy()
