"""DeepCache: the shallow levels of a U-Net always run, what comes from below is held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.schedules._inputs import Forecast, Inputs, check_interval


def deepcache(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    interval: int = 3,
    depth: int = 1,
    forecast: Forecast | None = None,
) -> StepMask:
    """Blocks of the `depth` shallowest levels always compute, all others at every k-th step (Ma et al., CVPR 2024).

    The value held is the feature that enters the shallow levels from below; elimination finds that the rest of the
    deeper levels, and the upsampler on the way, need not run between.

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        interval: k, in steps.
        depth: Number of levels that always run, counted from full resolution.
        forecast: ``"linear"`` extrapolates the two values computed last instead of holding the last; None holds, as
            published.

    Raises:
        StepMaskError: The model is no U-Net, or has no level below `depth`.
    """
    check_interval(interval)
    inputs = Inputs(graph_or_pipe, timesteps)
    levels = [site.depth for site in inputs.graph.sites]
    if None in levels:
        raise StepMaskError("DeepCache needs a U-Net, whose sites have levels; for transformers use schedules.fora")
    if not 1 <= depth <= max(levels):
        raise StepMaskError(f"depth must lie between 1 and {max(levels)} for this U-Net, got {depth}")
    # samplers are left to elimination where blocks hold; a forecast of theirs is that of what they read (they are
    # affine), and spares running them on it
    sites = range(len(levels)) if forecast else inputs.graph.blocks
    deep = [site for site in sites if levels[site] >= depth]
    compute = np.ones((len(inputs.timesteps), len(inputs.graph)), dtype=bool)
    between = np.arange(len(compute)) % interval != 0
    compute[np.ix_(between, deep)] = False
    return inputs.mask(compute, forecast, method="deepcache", interval=interval, depth=depth)
