"""PostDiff's caching: DeepCache and held cross-attention together. A reconstruction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.schedules.deepcache import deep_sites
from stepmask.schedules.inputs import Forecast, ScheduleInputs, check_interval
from stepmask.schedules.registry import register


@register
def postdiff(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    interval: int = 3,
    depth: int = 1,
    cross_interval: int = 5,
    forecast: Forecast | None = None,
) -> StepMask:
    """Deep blocks compute at every k-th step, cross-attention that always runs at every c-th.

    A reconstruction: of arXiv 2508.06160 only the abstract and summaries by others are at hand ("a hybrid module
    caching strategy", DeepCache with cached cross-attention); intervals and defaults are ours. Its other half, low
    resolution in early steps, is a matter of the sampler and not here.

    A transformer without levels has no deep blocks, so its cross-attention alone is held. A U-Net's cross-attention is
    within its transformers and has to be made a site first:
    ``register_sites(pipe, ["**.resnets.*", "**.attn1", "**.attn2", "**.ff", "**.downsamplers.*", "**.upsamplers.*"])``.

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        interval: k, in steps, of the deep blocks of a U-Net.
        depth: Number of levels of a U-Net that always run, but for their cross-attention.
        cross_interval: c, in steps, of cross-attention that is not deep.
        forecast: ``"linear"`` extrapolates the two values computed last instead of holding the last.

    Raises:
        StepMaskError: No site is cross-attention, or no level lies below `depth`.
    """
    check_interval(interval)
    check_interval(cross_interval, "cross_interval")
    inputs = ScheduleInputs(graph_or_pipe, timesteps)
    graph = inputs.graph
    cross = {i for i, site in enumerate(graph.sites) if site.kind == "cross_attention"}
    if not cross:
        raise StepMaskError(
            "PostDiff caches cross-attention, and no site of this model is one; in a U-Net with text make it one: "
            'stepmask.register_sites(pipe, ["**.resnets.*", "**.attn1", "**.attn2", "**.ff", "**.downsamplers.*", '
            '"**.upsamplers.*"])'
        )
    deep = deep_sites(graph, depth) if None not in [site.depth for site in graph.sites] else set()
    decided = set(range(len(graph)) if forecast else graph.blocks)
    steps = np.arange(len(inputs.timesteps))
    compute = np.ones((len(steps), len(graph)), dtype=bool)
    compute[np.ix_(steps % interval != 0, sorted(deep & decided))] = False
    compute[np.ix_(steps % cross_interval != 0, sorted(cross - deep))] = False
    settings = {"interval": interval, "depth": depth} if deep else {}
    return inputs.mask(compute, forecast, method="postdiff", **settings, cross_interval=cross_interval)
