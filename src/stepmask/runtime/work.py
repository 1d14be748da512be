"""What a run costs under a recipe, counted row by row: in multiply-accumulates or in time, and in evaluations."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from stepmask.cost import CostTable, Unit
from stepmask.inspection.first_step import FirstStep, first_step
from stepmask.inspection.measure_cost import cost_of
from stepmask.inspection.twin import meta_twin
from stepmask.liveness import Plan, make_plan
from stepmask.recipe import FULL, Recipe, Resolution
from stepmask.runtime.low_resolution import LowResolution
from stepmask.runtime.task import Task


@dataclass(frozen=True)
class Work:
    """The work of a run.

    Attributes:
        cost: Multiply-accumulates of the denoiser for one image, guidance included; or milliseconds for one batch.
        full_cost: That of the plain run of the same number of steps.
        evaluations: The same work in evaluations of the denoiser at full resolution, both halves of guidance counted
            as one.
    """

    cost: float
    full_cost: float
    evaluations: float

    @property
    def fraction(self) -> float:
        """Share of the plain run's work."""
        return self.cost / self.full_cost


class Steps:
    """What single steps of a task cost: at any resolution, for all inputs of guidance or some. Found when asked for.

    Args:
        task: The pipeline and its call. Nothing is applied to it.
        batch_size: Images at once whose steps are timed; None counts the multiply-accumulates of one image.
        kept: Times that were measured before, by name; those that are measured are added.
    """

    def __init__(
        self, task: Task, batch_size: int | None = None, kept: MutableMapping[str, np.ndarray] | None = None
    ) -> None:
        self._task, self._batch_size = task, batch_size
        self._kept = {} if kept is None else kept
        self._tables: dict[tuple[float, int], CostTable] = {}
        self._unit: Unit = "macs" if batch_size is None else "latency"

    @property
    def forwards(self) -> int:
        """Inputs of the denoiser for one image: 2 with guidance."""
        return self._task.costs.forwards_per_image

    @property
    def whole(self) -> float:
        """A step in full: multiply-accumulates of one image, or milliseconds of one batch."""
        return self._of(self.table())

    def table(self, low: Resolution | None = None, forwards: int | None = None) -> CostTable:
        """Costs of a step by site.

        Args:
            low: The resolution that it runs at; None for the full one.
            forwards: Of so many inputs for each image; None for all of them.
        """
        key = 1.0 if low is None else low.factor, forwards or self.forwards
        if key not in self._tables:
            self._tables[key] = self._measured(low, *key)
        return self._tables[key]

    def stretch(self, plan: Plan | None, rows: tuple[int, int], low: Resolution | None, forwards: int) -> float:
        """Cost of rows, from the first to the last, that a plan begins anew with; None computes all."""
        costs, count = self.table(low, forwards), rows[1] - rows[0] + 1
        if plan is None:
            return count * self._of(costs)
        begun = plan.from_row(rows[0])
        begun = replace(begun, states=begun.states[:count], keep=begun.keep[:count])
        return costs.fraction(begun, self._unit) * self._of(costs) * len(begun.compute)

    def _of(self, costs: CostTable) -> float:
        if self._batch_size is None:
            return costs.step_macs
        return float(costs.latency_ms.sum() + costs.always_latency_ms)

    def _measured(self, low: Resolution | None, factor: float, forwards: int) -> CostTable:
        task = self._task
        if low is None and forwards == self.forwards and self._batch_size is None:
            return task.costs
        inputs = first_step(task.pipe, task.call_kwargs).inputs
        if low is not None:
            if inputs is None:
                inputs = task.description.architecture.example_inputs(meta_twin(task.denoiser))
            small = LowResolution(low, task.denoiser, task.pipe.scheduler)
            small.begin((), inputs)
            inputs = small.small((), inputs)[1]
        step, name = FirstStep(inputs, forwards), f"milliseconds.{self._batch_size}.{factor:g}.{forwards}"
        if self._batch_size is None:
            return cost_of(task.description, step)
        if name not in self._kept:
            found = cost_of(task.description, step, latency=True, batch_size=self._batch_size)
            self._kept[name] = np.append(found.latency_ms, found.always_latency_ms).astype(np.float64)
        times = self._kept[name]
        return replace(cost_of(task.description, step), latency_ms=times[:-1], always_latency_ms=float(times[-1]))


def work_of(recipe: Recipe, task: Task, steps: Steps | None = None) -> Work:
    """What a run costs under a recipe.

    Args:
        recipe: What runs.
        task: The pipeline, its call, and the number of steps of the recipe. Nothing is applied to it.
        steps: What its steps cost; None for their multiply-accumulates.
    """
    steps, rows = steps or Steps(task), len(task.whole_timesteps)
    low = recipe.resolution
    switch = 0 if low is None else low.switch
    plan = None if recipe.mask is None else make_plan(recipe.mask, task.graph)
    cost = sum(
        steps.stretch(plan, stretch, low if stretch[0] < switch else None, forwards)
        for runs, forwards in _calls(recipe, rows, steps.forwards)
        for stretch in _stretches(runs, switch)
    )
    return Work(cost, steps.whole * rows, cost / steps.whole)


def _calls(recipe: Recipe, rows: int, forwards: int) -> list[tuple[list[bool], int]]:
    """The calls of a step: in which rows each is made, and on how many inputs for each image.

    Under a mask each half of guidance is a call of its own; without one, both are one call where both compute.
    """
    if recipe.guidance is None or forwards == 1:
        return [([True] * rows, forwards)]
    both = [letter == FULL for letter in recipe.guidance]
    if recipe.mask is not None:
        return [([True] * rows, forwards // 2), (both, forwards // 2)]
    return [(both, forwards), ([not one for one in both], forwards // 2)]


def _stretches(runs: Sequence[bool], switch: int) -> Iterator[tuple[int, int]]:
    """First and last rows in which a call runs without a pause, at one resolution: in which caches live on."""
    for (runs_here, _), group in groupby(range(len(runs)), key=lambda row: (runs[row], row < switch)):
        rows = list(group)
        if runs_here:
            yield rows[0], rows[-1]
