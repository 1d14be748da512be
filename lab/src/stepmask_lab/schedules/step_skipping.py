"""Skipping whole steps: every block holds at them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.schedules.inputs import Forecast, ScheduleInputs, check_interval, check_steps
from stepmask.schedules.registry import register


@register
def step_skipping(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    every: int | None = None,
    steps: Iterable[int] | None = None,
    forecast: Forecast | None = None,
) -> StepMask:
    """All blocks hold at each k-th step, or at given ones: the simplest cache, and the bound of many (BudCache).

    In a U-Net nothing but the last layers runs at a skipped step, on the same value as before, so the output is that
    of the step before. In a transformer the stream of tokens goes on from the current sample, and all that blocks add
    to it is held, with the gates of the current step: the output is near that of the step before, not the same.

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        every: k, in steps: steps k - 1, 2k - 1, ... are skipped, so one of k. 3 if `steps` is not given either.
        steps: The steps to skip, 0 not among them; instead of `every`.
        forecast: ``"linear"`` extrapolates the two values computed last instead of holding the last.
    """
    if every is not None and steps is not None:
        raise StepMaskError("every and steps exclude each other: give one of them")
    inputs = ScheduleInputs(graph_or_pipe, timesteps)
    num_rows = len(inputs.timesteps)
    if steps is None:
        every = 3 if every is None else every
        check_interval(every, "every")
        if every < 2:
            raise StepMaskError("every must be at least 2: the first step computes")
        skipped = np.arange(num_rows) % every == every - 1
        settings = {"every": every}
    else:
        steps = list(steps) if isinstance(steps, Iterable) else steps
        skipped = check_steps(steps, num_rows, "steps")
        if skipped[0]:
            raise StepMaskError("step 0 cannot be skipped: there is nothing to reuse before it")
        settings = {"steps": np.flatnonzero(skipped).tolist()}
    compute = np.ones((num_rows, len(inputs.graph)), dtype=bool)
    compute[np.ix_(skipped, inputs.graph.blocks)] = False
    return inputs.mask(compute, forecast, method="step_skipping", **settings)
