"""Random cells: no method, but what a method has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.schedules.inputs import Forecast, ScheduleInputs
from stepmask.schedules.registry import register


@register
def random_schedule(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    density: float = 0.5,
    seed: int = 0,
    forecast: Forecast | None = None,
) -> StepMask:
    """After the first step a share of the cells of all blocks computes, drawn without replacement.

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        density: Share of cells after the first step that compute, to the nearest cell. What that costs is another
            number: blocks differ, and elimination removes what nobody reads.
        seed: Of the draw; the same seed gives the same mask.
        forecast: ``"linear"`` extrapolates the two values computed last instead of holding the last.
    """
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 <= density <= 1:
        raise StepMaskError(f"density must be a share between 0 and 1, got {density!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise StepMaskError(f"seed must be a whole number of at least 0, got {seed!r}")
    inputs = ScheduleInputs(graph_or_pipe, timesteps)
    blocks = list(inputs.graph.blocks)
    cells = np.zeros((len(inputs.timesteps) - 1) * len(blocks), dtype=bool)
    cells[: round(density * len(cells))] = True
    compute = np.ones((len(inputs.timesteps), len(inputs.graph)), dtype=bool)
    compute[1:, blocks] = np.random.default_rng(seed).permutation(cells).reshape(-1, len(blocks))
    return inputs.mask(compute, forecast, method="random", density=density, seed=seed)
