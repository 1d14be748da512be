"""Runs tables in the user's pipeline and remembers what came of it: PSNR against the full run, probes, gains.

A search is a deterministic function of what is measured here. So an interrupted one is simply run again on the same
checkpoint, and goes through what it knows in moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from stepmask.errors import StepMaskError
from stepmask.learning.budget import Budget
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.clock import Clock
from stepmask.learning.end_to_end.calibration import calibrated
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.end_to_end.gradients.gains import GainFit, with_weights
from stepmask.learning.end_to_end.gradients.probe import Probe, probe
from stepmask.learning.end_to_end.newton import newton_step
from stepmask.learning.end_to_end.tables import Table
from stepmask.learning.end_to_end.times import CALIBRATED, FIRST_IMAGES, LEAST_PROBES, Times
from stepmask.learning.interception import frozen
from stepmask.learning.processes import Processes
from stepmask.runtime.task import Task

VALIDATION, HELD_BACK, PROBES = 0, 20_000, 40_000
"""First image numbers of the three kinds of noise."""

PSNR_CAP = 80.0
"""dB. What an image counts for at most, the full run's included, whose error is 0."""

MOST_PROBES = 16
"""Gains are fitted on the noise of the probes so far, of `LEAST_PROBES` and of at most so many; what the full run makes
of it is kept."""

Part = tuple[int, int]
"""Images by number: the first, and how many."""

Objective = Callable[[torch.Tensor], torch.Tensor]
"""A function of final latents, or images, (N, ...)."""


class Judge:
    """What tables do to the final images.

    Args:
        task: The pipeline to be learned on.
        budget: What tables cost, and what their caches may hold.
        config: Options of the search.
        checkpoint: Where what was measured is kept, and read from.
        processes: Those that share the images out; this one alone where none are given.
        clock: Is asked before everything that is not known yet; there is time for all of it where none is given.
        times: How long that takes; no time where none are given.
    """

    def __init__(
        self,
        task: Task,
        budget: Budget,
        config: EndToEnd,
        checkpoint: Checkpoint,
        processes: Processes | None = None,
        clock: Clock | None = None,
        times: Times | None = None,
    ) -> None:
        self.task, self.budget, self.config = task, budget, config
        self._noise, self._denoisers, self._checkpoint = task.noise, task.denoisers, checkpoint
        self._processes = processes or Processes()
        self._clock = clock or Clock(checkpoint, self._processes)
        self._times = times or Times(config, len(task.timesteps))
        self._full: dict[tuple[int, int, bool], torch.Tensor] = {}
        self._wanted: dict[int, torch.Tensor] = {}  # by number of probe

    def check_objective(self) -> None:
        """See that the objective is one, and that which the measurements so far were made by.

        Raises:
            StepMaskError: It says nothing about images, or was another before.
        """
        if self._objective is None:
            return

        def run(part: Part) -> torch.Tensor:
            with frozen(self._denoisers):
                found = self._full[(*part, False)] = self._sampled(*part, self._objective)
            return found.cpu()

        found = torch.cat(self._processes.share("the objective", run, self._parts(VALIDATION, FIRST_IMAGES)))
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
        self._clock.save()

    def first_psnrs(self, table: Table) -> np.ndarray:
        """PSNR in dB of the first validation images, or what the objective says of them, per image."""
        return self._psnrs(table, VALIDATION, FIRST_IMAGES, self._objective)

    def measure_first(self, tables: Iterable[Table]) -> None:
        """Find `first_psnrs` of all these tables, which several processes do side by side."""
        self._measure(tables, VALIDATION, FIRST_IMAGES, self._objective)

    def psnrs(self, table: Table) -> np.ndarray:
        """PSNR in dB of all validation images, or what the objective says of them, per image."""
        first, count = self.first_psnrs(table), self.config.num_validation - FIRST_IMAGES
        rest = self._psnrs(table, VALIDATION + FIRST_IMAGES, count, self._objective)
        return np.concatenate([first, rest])

    def held_back(self, table: Table) -> np.ndarray:
        """PSNR in dB per image on noise that nothing was chosen on."""
        most, end = self.config.num_validation, HELD_BACK + self.config.num_held_back
        parts = [self._psnrs(table, first, min(most, end - first), None) for first in range(HELD_BACK, end, most)]
        self.save()
        return np.concatenate(parts)

    def probe(self, table: Table, number: int) -> Probe:
        """What every switch in a table would do, on noise of its own for each number."""
        count, first = self.config.num_probes, PROBES + number * self.config.num_probes
        key = f"probe.{first}.{table.digest}"
        known = self._kept(key)
        if not known:
            self._clock.ask(self._times.probe(self.budget.cost_of(table.actions)))
            plan, wanted = table.plan(self.task), self._features_of_probe(number)

            def run(part: Part) -> Probe:
                images, target = partial(self._noise.latents, *part), _slice(wanted, part, first)
                return probe(self.task.pipe, plan, images, target, self._features, self.config, seed=part[0])

            known = vars(Probe.of_parts(self._processes.share(key, run, self._parts(first, count))))
            self._keep(key, known)
        return Probe(**{**known, "size": np.asarray(known["size"]).item()})

    def with_gains(self, table: Table, iterations: int, num_probed: int) -> Table:
        """The table with gains of its forecasts learned; itself where there is none to learn.

        Gains that are there already go on with half of the iterations. Each iteration runs on half of a probe's noise,
        in turns through that of the probes so far, since the full run has been there already.
        """
        iterations = math.ceil(iterations / 2) if table.has_gains else iterations
        key = f"gains.{iterations if self.config.gradients else 'by runs'}.{table.digest}"
        known = self._kept(key)
        if not known:
            self._clock.ask(self._times.gains(self.budget.cost_of(table.actions), iterations), gains=True)
        if not known and not self.config.gradients:
            known = self._parts_of(self._by_runs(table, key))
            self._keep(key, known)
        if not known:
            fit = GainFit(table.mask(self.task), self.budget, self.config, iterations)
            count = max(1, self.config.num_probes // 2)
            num_batches = min(max(num_probed, LEAST_PROBES), MOST_PROBES) * self.config.num_probes // count
            for iteration in range(iterations if fit.num_gains else 0):
                first = PROBES + iteration % num_batches * count
                wanted = self._features_of_images(first, count)
                parts = self._parts(first, count)
                batches = [(partial(self._noise.latents, *part), _slice(wanted, part, first)) for part in parts]
                fit.step(self.task.pipe, batches, self._features, self._processes)
            known = self._parts_of(Table.of(fit.mask, self.task.graph) if fit.num_gains else table)
            self._keep(key, known)
        channels, weights = (
            {key.removeprefix(f"{name}."): known[key] for key in known if key.startswith(f"{name}.")} or None
            for name in ("channels", "weights")
        )
        return Table(known["actions"], known.get("gains"), channels, weights)

    def _by_runs(self, table: Table, key: str) -> Table:
        """The table with weights fitted step by step, and then so that the images of half a probe come closer."""
        count = min(CALIBRATED, self.config.images_per_call or CALIBRATED)

        def calibrate() -> Table:
            with frozen(self._denoisers):
                return calibrated(self.task, table, PROBES, count)

        table = self._processes.of_first(calibrate)
        mask = with_weights(table.mask(self.task), self.budget, self.config)
        if not mask.weights:
            return table
        half = max(1, self.config.num_probes // 2)

        def errors(first: int, tables: list[Table]) -> list[torch.Tensor]:
            wanted = self._features_of_images(first, half)

            def run(table: Table) -> torch.Tensor:
                parts = _pieces(first, half, self.config.images_per_call or half)
                with frozen(self._denoisers), self.task.apply(table.plan(self.task)):
                    found = [self._features(self._noise.latents(*part)).detach().cpu() for part in parts]
                return (torch.cat(found) - wanted).flatten(1).double()

            return self._processes.share(f"{key} of {first}", run, tables)

        return newton_step(mask, self.task.graph, partial(errors, PROBES), partial(errors, PROBES + half))

    @staticmethod
    def _parts_of(table: Table) -> dict[str, np.ndarray]:
        """What is kept of a table with gains."""
        known = {"actions": table.actions, **({} if table.gains is None else {"gains": table.gains})}
        for name, by_site in (("channels", table.channel_gains), ("weights", table.weights)):
            known |= {f"{name}.{site}": numbers for site, numbers in (by_site or {}).items()}
        return known

    def _kept(self, key: str) -> dict[str, np.ndarray]:
        """Parts of a result that were kept under this key, by name; none where it was not measured."""
        arrays = self._checkpoint.arrays
        return {name.removeprefix(f"{key}."): arrays[name] for name in arrays if name.startswith(f"{key}.")}

    def _keep(self, key: str, parts: Mapping[str, Any]) -> None:
        self._checkpoint.arrays |= {f"{key}.{name}": np.asarray(part) for name, part in parts.items()}
        self.save()

    def _parts(self, first: int, count: int) -> Iterator[Part]:
        """Images that run at once; with `images_per_call` the same however many processes share them out."""
        return _pieces(first, count, self.config.images_per_call or math.ceil(count / self._processes.count))

    @property
    def _objective(self) -> Objective | None:
        """The user's objective, whose values are checked."""
        given = self.config.objective
        return None if given is None else partial(_rows_of, given)

    @property
    def _features(self) -> Objective:
        return self._objective or (lambda images: images)

    def _features_of_images(self, first: int, count: int) -> torch.Tensor:
        """(count, ...) what shall be reached from the noise of probes: numbered images of one, or of some in a row."""
        size = self.config.num_probes
        start, end = (first - PROBES) // size, (first + count - 1 - PROBES) // size
        found = torch.cat([self._features_of_probe(number) for number in range(start, end + 1)])
        return _slice(found, (first, count), PROBES + start * size)

    def _features_of_probe(self, number: int) -> torch.Tensor:
        """(num_probes, ...) what shall be reached from a probe's noise, on the host; of the first probes it is kept."""
        if number in self._wanted:
            return self._wanted[number]

        def run(part: Part) -> torch.Tensor:
            with frozen(self._denoisers):
                return _unbroken(self._features(self._noise.latents(*part)).detach()).cpu()

        parts = self._parts(PROBES + number * self.config.num_probes, self.config.num_probes)
        found = torch.cat(self._processes.share(f"the full run of probe {number}", run, parts))
        if self.config.learns_gains and number < MOST_PROBES:
            self._wanted[number] = found
        return found

    def _psnrs(self, table: Table, first: int, count: int, objective: Objective | None) -> np.ndarray:
        """PSNR in dB of numbered images under a table, or what the objective says of them."""
        self._measure([table], first, count, objective)
        return self._checkpoint.arrays[_psnr_key(table, first, count)]

    def _measure(self, tables: Iterable[Table], first: int, count: int, objective: Objective | None) -> None:
        """Let it be known what `_psnrs` returns of these tables."""
        arrays, keys = self._checkpoint.arrays, {_psnr_key(table, first, count): table for table in tables}
        plans = {key: table.plan(self.task) for key, table in keys.items() if key not in arrays}
        parts, ratio = list(self._parts(first, count)), self._noise.psnrs if objective is None else size_over_error

        def run(work: tuple[str, Part]) -> np.ndarray:
            key, part = work
            which = *part, objective is None
            with frozen(self._denoisers):
                if which not in self._full:
                    self._full[which] = _unbroken(self._sampled(*part, objective))
                with self.task.apply(plans[key]):
                    found = self._sampled(*part, objective)
            return ratio(found, self._full[which])

        if plans:
            self._clock.ask(sum(self._times.run(count, self.budget.cost_of(keys[key].actions)) for key in plans))
            found = self._processes.share(" ".join(plans), run, [(key, part) for key in plans for part in parts])
            for number, key in enumerate(plans):
                of_table = np.concatenate(found[number * len(parts) :][: len(parts)])
                psnrs = np.minimum(np.nan_to_num(of_table, nan=-PSNR_CAP), PSNR_CAP)
                arrays[key] = np.asarray(psnrs, dtype=np.float64)

    def _sampled(self, first: int, count: int, objective: Objective | None) -> torch.Tensor:
        if objective is None:
            return self._noise.images(first, count)
        return objective(self._noise.latents(first, count)).detach()


def _pieces(first: int, count: int, most: int) -> Iterator[Part]:
    return ((start, min(most, first + count - start)) for start in range(first, first + count, most))


def _psnr_key(table: Table, first: int, count: int) -> str:
    return f"psnr.{first}.{count}.{table.digest}"


def _slice(values: torch.Tensor, part: Part, start: int) -> torch.Tensor:
    """The rows of some images in a tensor whose first row is that of the image with number `start`."""
    return values[part[0] - start :][: part[1]]


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
