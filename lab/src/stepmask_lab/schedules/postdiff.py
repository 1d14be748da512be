"""PostDiff: DeepCache and held cross-attention together; guidance that ends, and low resolution. A reconstruction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.recipe import FULL, OFF, Recipe, Resolution
from stepmask.schedules.deepcache import deep_sites
from stepmask.schedules.inputs import Forecast, ScheduleInputs, check_interval, check_steps
from stepmask.schedules.registry import register


@register
def postdiff(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    interval: int = 3,
    depth: int = 1,
    cross_interval: int = 5,
    forecast: Forecast | None = None,
    after: int | None = None,
) -> StepMask:
    """Deep blocks compute at every k-th step, cross-attention that always runs at every c-th, or up to one step alone.

    A reconstruction: of arXiv 2508.06160 only the abstract and summaries by others are at hand ("a hybrid module
    caching strategy", DeepCache with cached cross-attention); intervals and defaults are ours. `postdiff_recipe` has
    the rest of it: guidance that ends, and low resolution in early steps.

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
        after: In the place of every c-th step: all cross-attention holds after this one.

    Raises:
        StepMaskError: No site is cross-attention, no level lies below `depth`, or `after` is no step of the run.
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
    settings = {"interval": interval, "depth": depth} if deep else {}
    if after is None:
        compute[np.ix_(steps % cross_interval != 0, sorted(cross - deep))] = False
        settings["cross_interval"] = cross_interval
    else:
        check_steps([after], len(steps), "after")
        compute[np.ix_(steps > after, sorted(cross))] = False
        settings["after"] = after
    return inputs.mask(compute, forecast, method="postdiff", **settings)


def postdiff_recipe(
    pipe: Any,
    num_inference_steps: int,
    after: int = 10,
    interval: int = 3,
    depth: int = 1,
    resolution: Resolution | None = None,
) -> Recipe:
    """PostDiff as a recipe: `postdiff` with guidance that ends at a step, and low resolution before if that is given.

    From step `after` on the conditional half runs alone. Under a mask each half has cached values of its own, so the
    cross-attention that is held is that of the conditional half: holding the guided mixture is said to collapse.

    Args:
        pipe: A pipeline that guides in one call.
        num_inference_steps: T.
        after: m, the first step without guidance, and the last at which cross-attention computes; 5 to 15 of 20 in the
            summaries.
        interval: As `postdiff` takes it.
        depth: As `postdiff` takes it.
        resolution: Of the early steps, such as ``Resolution(factor=0.5, switch=10)``.

    Raises:
        StepMaskError: As of `postdiff`, or `after` leaves no step with guidance.
    """
    mask = postdiff(pipe, num_inference_steps, interval, depth, after=after)
    guidance = FULL * after + OFF * (num_inference_steps - after)
    return Recipe(num_inference_steps=num_inference_steps, mask=mask, guidance=guidance, resolution=resolution)
