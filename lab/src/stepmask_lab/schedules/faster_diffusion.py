"""Faster Diffusion: the encoder of a U-Net runs at key steps alone, the decoder at every step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.schedules.inputs import Forecast, ScheduleInputs, check_steps
from stepmask.schedules.registry import register
from stepmask.schedules.unet_layers import parts_of

KEY_STEPS = (0, 1, 2, 3, 5, 10, 15, 25, 35)
OF_STEPS = 50


@register
def faster_diffusion(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    key_steps: Iterable[int] | None = None,
    forecast: Forecast | None = None,
) -> StepMask:
    """Encoder and middle hold between key steps, the decoder always computes (Li et al., NeurIPS 2024).

    What differs from arXiv 2312.09608: the decoder gets the first convolution's value of the current step, not the
    held one (it is no site, and costs little); the steps between two key steps are not run as one batch, which is
    another way to run the same mask; and no share of the first noise is added in the second half of the run, which is
    a change of the sampler.

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        key_steps: Steps at which the encoder computes, 0 among them. By default 0, 1, 2, 3, 5, 10, 15, 25, 35 of 50,
            as published, scaled to runs of other lengths.
        forecast: ``"linear"`` extrapolates the two values computed last instead of holding the last; None holds, as
            published.

    Raises:
        StepMaskError: The model is no U-Net, or the key steps are none of the run.
    """
    inputs = ScheduleInputs(graph_or_pipe, timesteps)
    parts = parts_of(inputs.graph, "Faster Diffusion", "for transformers use schedules.fora")
    num_rows = len(inputs.timesteps)
    key_steps = scaled_key_steps(num_rows) if key_steps is None else key_steps
    key_steps = list(key_steps) if isinstance(key_steps, Iterable) else key_steps
    computes = check_steps(key_steps, num_rows, "key_steps")
    if not computes[0]:
        raise StepMaskError(f"key_steps must hold step 0, there is nothing to reuse before it; got {key_steps!r}")
    sites = range(len(parts)) if forecast else inputs.graph.blocks
    compute = np.ones((num_rows, len(parts)), dtype=bool)
    compute[np.ix_(~computes, [i for i in sites if parts[i] != "up"])] = False
    steps = np.flatnonzero(computes).tolist()
    return inputs.mask(compute, forecast, method="faster_diffusion", key_steps=steps)


def scaled_key_steps(num_rows: int) -> list[int]:
    """The published key steps of 50 at the same parts of a run of `num_rows`."""
    return sorted({step * num_rows // OF_STEPS for step in KEY_STEPS})
