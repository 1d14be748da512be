"""Times: how long measurements take here, from the time of a few calls of the denoiser, before anything long runs.

Every measurement is a number of runs of the denoiser, forth and back, on so many images at once. A call takes some
seconds for itself and some for each of its images; both are measured, on the device and at the numbers of images that
learning uses. What a run takes beside them is measured on a run that rests at all steps but two: forecasts, what lies
outside of the blocks, the scheduler, text encoders and the decoder. The choice of cells is not counted.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from stepmask.inspection.first_step import first_step
from stepmask.inspection.inputs import first_sample
from stepmask.inspection.measure_cost import call_inputs
from stepmask.inspection.placement import device_of
from stepmask.learning.budget import Budget
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.end_to_end.gradients.gains import GainFit
from stepmask.learning.end_to_end.newton import DAMPING, MOST_NUMBERS
from stepmask.learning.end_to_end.tables import Table
from stepmask.learning.interception import frozen, weights_cast
from stepmask.runtime.task import Task
from stepmask.schedules import key_steps
from stepmask.values import tensors_in

FIRST_IMAGES = 2
"""So many images of the validation noise are what every candidate is measured on."""

LEAST_PROBES = 4
"""Gains are learned on the noise of at least so many probes."""

CALIBRATED = 16
"""Images on which weights are fitted step by step, where no gradient comes back."""

REPEATS, ENOUGH = 3, 2.0
"""A call is timed so often, or until so many seconds are over."""

PROPOSED, MEASURED = 8, 0.5
"""Of the ten tables that a round proposes, so many differ; and such a share of what is measured on the first images is
worth to be measured on all."""


@dataclass(frozen=True)
class Times:
    """Seconds of the measurements of a search.

    Attributes:
        config: Options of the search.
        num_rows: T.
        forth: Seconds of a forward pass of the whole denoiser: of any call, and more for each of its images; 0 where
            they are not known.
        back: The same of a backward pass.
        beside: The same of what a run of all steps takes beside its passes.
        learning: The same of a run forth and back that learns gains.
        graph: Bytes that autograd keeps of one step of an image; steps for which ``graph_bytes`` has no room are
            computed again on the way back.
        num_processes: So many share the images out.
    """

    config: EndToEnd
    num_rows: int
    forth: tuple[float, float] = (0.0, 0.0)
    back: tuple[float, float] = (0.0, 0.0)
    beside: tuple[float, float] = (0.0, 0.0)
    learning: tuple[float, float] = (0.0, 0.0)
    graph: int = 0
    num_processes: int = 1

    def under(self, config: EndToEnd) -> Times:
        """The same denoiser under other options."""
        return replace(self, config=config)

    def run(self, images: int, cost: float) -> float:
        """A sampling run of so many images under a plan of a cost."""
        return self._forth(images, cost) + self._passes(self.beside, images)

    def judged(self, cost: float, tables: float = 1) -> float:
        """Tables that are measured on the first images, and some of them on all."""
        return tables * (self.run(FIRST_IMAGES, cost) + MEASURED * self.run(self._others, cost))

    def probe(self, cost: float) -> float:
        """A probing run, and the full run of its noise."""
        images = self.config.num_probes
        back = (1 + self.config.num_projections) * self._back(images, cost)
        beside = self._passes(self.beside, images) + self._passes(self.learning, images)
        return self._forth(images, 2 + self._again(images, cost)) + back + beside

    def round(self, cost: float) -> float:
        """A probing run, and what comes of its proposals."""
        finalists = self.config.tuning.finalists
        return self.probe(cost) + PROPOSED * self.run(FIRST_IMAGES, cost) + finalists * self.run(self._others, cost)

    def gains(self, cost: float, iterations: int) -> float:
        """Gains or weights of one table, and the measurement of it."""
        images, measured = max(1, self.config.num_probes // 2), self.run(self.config.num_validation, cost)
        if not self.config.gradients:
            numbers = min(MOST_NUMBERS, max(0, self.config.num_values - 1) * (1 - cost) * self.num_rows)
            changed = (numbers + 2 + len(DAMPING)) * self.run(images, cost)
            return self.run(CALIBRATED, 1.0) + changed + self.run(2 * images, 1.0) + measured
        passes = self._forth(images, cost + self._again(images, cost)) + self._back(images, cost)
        return iterations * (passes + self._passes(self.learning, images)) + measured

    def references(self, num_probed: int) -> float:
        """Full runs of the validation noise, and of the noise that gains are learned on and no probe has seen."""
        unseen = max(0, LEAST_PROBES - num_probed) if self.config.learns_gains and self.config.gradients else 0
        return self.run(self.config.num_validation, 1.0) + unseen * self.run(self.config.num_probes, 1.0)

    def held_back(self, costs: list[float]) -> float:
        """Tables of these costs on held-back images."""
        return self.run(self.config.num_held_back, 1.0 + sum(costs))

    @property
    def _others(self) -> int:
        return self.config.num_validation - FIRST_IMAGES

    def _forth(self, images: int, cost: float) -> float:
        """The forward passes of a run."""
        return self._passes(self.forth, images) * self.num_rows * cost

    def _back(self, images: int, cost: float) -> float:
        """A backward pass of a run; none comes back through the first step."""
        return self._passes(self.back, images) * max(0.0, self.num_rows * cost - 1)

    def _again(self, images: int, cost: float) -> float:
        """Cost of what is computed again on the way back."""
        size = self._at_once(images) * self.graph * self.num_rows * cost
        return cost * (1 - min(1.0, self.config.graph_bytes / size)) if size else 0.0

    def _passes(self, pace: tuple[float, float], images: int) -> float:
        """Seconds of so many images at a pace: of calls, and of each image."""
        mine = math.ceil(images / self.num_processes)
        return pace[0] * math.ceil(mine / self._at_once(images)) + pace[1] * mine

    def _at_once(self, images: int) -> int:
        mine = math.ceil(images / self.num_processes)
        return min(mine, self.config.images_per_call or mine)


def measured_pace(
    task: Task, config: EndToEnd, now: Callable[[], float] = time.perf_counter
) -> dict[str, tuple[float, float]] | None:
    """Seconds of passes of the denoiser by a clock, as `Times` has them; None where it cannot be called by itself."""
    most = min(config.images_per_call or config.num_probes, config.num_probes)
    counts = sorted({min(FIRST_IMAGES, most), most})
    try:
        cast = weights_cast(task.denoiser) if config.gradients else nullcontext()
        with frozen(task.denoiser, bool(config.gradient_checkpointing)), cast:
            found = [_timed_call(task, count, config.gradients, now) for count in counts]
    except Exception:  # whatever a model's code may raise: then nothing is known
        return None
    pace = {name: _line(counts, [one[i] for one in found]) for i, name in enumerate(("forth", "back"))}
    with suppress(Exception):  # which learning itself will put into words
        pace |= _beside(Times(config, task.shape[0], **pace), task, counts, now)
    return pace


def _beside(passes: Times, task: Task, counts: list[int], now: Callable[[], float]) -> dict[str, tuple[float, float]]:
    """What runs take beside their passes, by runs in which all blocks compute at the first two steps alone."""
    config, budget = passes.config, Budget(task.graph, task.costs)
    schedule = key_steps(task.graph, task.timesteps, [0, 1], forecast="linear" if config.forecast else None)
    table = Table.of(task.in_full(schedule), task.graph)
    cost = budget.cost_of(table.actions)

    def run(count: int) -> float:
        with frozen(task.denoisers), task.apply(table.plan(task)):
            took = _median(lambda: partial(task.noise.images, 0, count), task.denoiser, now)
        return max(0.0, took - passes.run(count, cost))

    def learn(count: int) -> float:
        images = partial(task.noise.latents, 0, count)
        with frozen(task.denoisers):
            target = images()
        fit = GainFit(table.mask(task), budget, config, REPEATS)
        took = _median(lambda: partial(fit.step, task.pipe, [(images, target)]), task.denoiser, now)
        return max(0.0, took - passes.gains(cost, 1) + passes.run(config.num_validation, cost))

    found = {"beside": _line(counts, [run(count) for count in counts])}
    if config.learns_gains and config.gradients:
        half = min(counts[-1], max(1, config.num_probes // 2))
        found["learning"] = _line([half], [learn(half)])
    return found


def _line(counts: list[int], seconds: list[float]) -> tuple[float, float]:
    """Seconds of a call and of each image in it, from calls of one or two sizes."""
    slope = seconds[-1] / counts[-1]
    if len(counts) > 1:
        slope = min(slope, max(0.0, (seconds[1] - seconds[0]) / (counts[1] - counts[0])))
    return seconds[-1] - slope * counts[-1], slope


def _timed_call(task: Task, images: int, gradients: bool, now: Callable[[], float]) -> tuple[float, float]:
    """Seconds of a forward and of a backward pass for one step of so many images."""
    step, model, architecture = first_step(task.pipe, task.call_kwargs), task.denoiser, task.description.architecture
    inputs = call_inputs(architecture, model, step.inputs, images * step.forwards)

    def run() -> Any:
        return architecture.run(model, inputs)

    with torch.no_grad():
        run()  # warms up
        forth = _median(lambda: run, model, now)
    if not gradients:
        return forth, 0.0
    sample = first_sample(inputs.values())
    for tensor in [sample] if isinstance(sample, torch.Tensor) else sample:
        tensor.requires_grad_()

    def back() -> Callable[[], None]:
        outputs = [o for o in tensors_in(run()) if o.requires_grad]
        return lambda: torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    with torch.enable_grad():
        return forth, _median(back, model, now)


def _median(prepare: Callable[[], Callable[[], Any]], model: nn.Module, now: Callable[[], float]) -> float:
    """Median seconds of what `prepare`, which is not timed, returns."""
    found: list[float] = []
    while len(found) < REPEATS and sum(found) < ENOUGH:
        found.append(_seconds(prepare(), model, now))
    return statistics.median(found)


def _seconds(call: Callable[[], Any], model: nn.Module, now: Callable[[], float]) -> float:
    _wait(model)
    began = now()
    call()
    _wait(model)
    return now() - began


def _wait(model: nn.Module) -> None:
    """Until the device of a model has done what it was given."""
    if device_of(model).type != "cpu":
        torch.accelerator.synchronize(device_of(model))
