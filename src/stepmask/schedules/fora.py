"""FORA: every block computes at each k-th step and reuses between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stepmask.graph import Level
from stepmask.mask import StepMask
from stepmask.schedules.inputs import Forecast, ScheduleInputs, check_interval
from stepmask.schedules.registry import register


@register
def fora(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    interval: int = 2,
    forecast: Forecast | None = None,
    level: Level = "branch",
) -> StepMask:
    """All blocks compute at steps 0, k, 2k, ... and hold between (Selvaraju et al. 2024, arXiv 2407.01425).

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        interval: The number k of steps from one computation to the next.
        forecast: ``"linear"`` extrapolates the two values computed last instead of holding the last; None holds, as
            published.
        level: ``"branch"`` lets the branches of all blocks hold, as published; ``"block"`` and ``"stack"`` let whole
            blocks or all of them rest, for a fraction of the cache and of the time that launching kernels takes.
    """
    check_interval(interval)
    inputs = ScheduleInputs(graph_or_pipe, timesteps, level)
    compute = np.ones((len(inputs.timesteps), len(inputs.graph)), dtype=bool)
    between = np.arange(len(compute)) % interval != 0
    compute[np.ix_(between, inputs.graph.blocks)] = False
    return inputs.mask(compute, forecast, method="fora", interval=interval)
