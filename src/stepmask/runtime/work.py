"""What a run costs under a recipe, counted row by row: in multiply-accumulates, and in evaluations of the denoiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from stepmask.cost import CostTable
from stepmask.inspection.first_step import FirstStep, first_step
from stepmask.inspection.measure_cost import cost_of
from stepmask.inspection.twin import meta_twin
from stepmask.liveness import Plan, make_plan
from stepmask.recipe import FULL, Recipe
from stepmask.runtime.low_resolution import LowResolution
from stepmask.runtime.task import Task


@dataclass(frozen=True)
class Work:
    """The work of one image.

    Attributes:
        macs: Multiply-accumulates of the denoiser, guidance included.
        full_macs: Those of the plain run of the same number of steps.
        evaluations: The same work in evaluations of the denoiser at full resolution, both halves of guidance counted
            as one.
    """

    macs: float
    full_macs: float
    evaluations: float

    @property
    def fraction(self) -> float:
        """Share of the plain run's work."""
        return self.macs / self.full_macs


def work_of(recipe: Recipe, task: Task, low: CostTable | None = None) -> Work:
    """What one image costs under a recipe.

    Args:
        recipe: What runs.
        task: The pipeline, its call, and the number of steps of the recipe. Nothing is applied to it.
        low: What `low_costs` says, where that is known.
    """
    rows, full = len(task.whole_timesteps), task.costs
    switch = 0 if recipe.resolution is None else recipe.resolution.switch
    if recipe.resolution is not None and low is None:
        low = low_costs(recipe, task)
    plan = None if recipe.mask is None else make_plan(recipe.mask, task.graph)
    letters, halves = recipe.guidance, 1
    streams = [[True] * rows]
    if letters is not None and full.forwards_per_image > 1:
        halves, other = 2, [letter == FULL for letter in letters]
        streams.append(other)
    macs = 0.0
    for stream in streams:
        for first, last in _stretches(stream, switch):
            costs = low if first < switch else full
            macs += _stretch_macs(plan, first, last, costs) / halves
    return Work(macs, full.step_macs * rows, macs / full.step_macs)


def low_costs(recipe: Recipe, task: Task) -> CostTable:
    """Costs of a step at the low resolution of a recipe."""
    step = first_step(task.pipe, task.call_kwargs)
    inputs = step.inputs
    if inputs is None:
        inputs = task.description.architecture.example_inputs(meta_twin(task.denoiser))
    low = LowResolution(recipe.resolution, task.denoiser, task.pipe.scheduler)
    low.begin((), inputs)
    return cost_of(task.description, FirstStep(low.small((), inputs)[1], step.forwards))


def _stretches(runs: Sequence[bool], switch: int) -> Iterator[tuple[int, int]]:
    """First and last rows in which a call runs without a pause, at one resolution: in which caches live on."""
    for (runs_here, _), group in groupby(range(len(runs)), key=lambda row: (runs[row], row < switch)):
        rows = list(group)
        if runs_here:
            yield rows[0], rows[-1]


def _stretch_macs(plan: Plan | None, first: int, last: int, costs: CostTable) -> float:
    count = last - first + 1
    if plan is None:
        return count * costs.step_macs
    begun = plan.from_row(first)
    return costs.total_macs(replace(begun, states=begun.states[:count], keep=begun.keep[:count]))
