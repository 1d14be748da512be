"""DeepCache: the shallow part of a U-Net always runs, what comes from below is held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.graph import BlockGraph
from stepmask.mask import StepMask
from stepmask.schedules.inputs import Forecast, ScheduleInputs, check_interval
from stepmask.schedules.registry import register
from stepmask.schedules.unet_layers import distances, parts_of

Spacing = Literal["uniform", "quad"]
INSTEAD = "for transformers use schedules.fora"


@register
def deepcache(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    interval: int = 3,
    depth: int = 1,
    forecast: Forecast | None = None,
    *,
    branch: int | None = None,
    spacing: Spacing = "uniform",
    center: int | None = None,
    power: float = 1.4,
) -> StepMask:
    """The shallow blocks of a U-Net always compute, all others at key steps (Ma et al., CVPR 2024).

    The value held is the one that enters the shallow part from below; elimination finds that the rest of the
    deeper part, and the upsampler on the way, need not run between.

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        interval: The number k of steps: every k-th step is a key step, or as many as that.
        depth: Number of levels that always run, counted from full resolution.
        forecast: ``"linear"`` extrapolates the two values computed last instead of holding the last; None holds, as
            published.
        branch: Finer than `depth`, and in its place, the number of the skip connection that the original is set up
            with: branch b always runs the last b + 1 layers of the decoder and the first b of the encoder. 0 is the
            cheapest; its results for Stable Diffusion are published with 0, those for DDPM with 2.
        spacing: ``"uniform"`` spaces key steps evenly; ``"quad"`` more densely around `center`, as published.
        center: The step around which ``"quad"`` puts most key steps; 0.3 of the run by default, 15 of 50.
        power: How uneven ``"quad"`` is, more than 1; 1.4 is published for Stable Diffusion.

    Raises:
        StepMaskError: The model is no U-Net, or has no level below `depth` or `branch`.
    """
    check_interval(interval)
    inputs = ScheduleInputs(graph_or_pipe, timesteps)
    held = deep_sites(inputs.graph, depth, branch)
    # samplers are left to elimination where blocks hold; a forecast of theirs is that of what they read (they are
    # affine), and spares running them on it
    sites = set(range(len(inputs.graph)) if forecast else inputs.graph.blocks)
    compute = np.ones((len(inputs.timesteps), len(inputs.graph)), dtype=bool)
    settings = {"interval": interval} | ({"depth": depth} if branch is None else {"branch": branch})
    if spacing not in get_args(Spacing):
        raise StepMaskError(f"spacing must be one of {', '.join(get_args(Spacing))}, got {spacing!r}")
    if spacing == "quad":
        center = int(0.3 * len(compute)) if center is None else center
        key = quad_steps(len(compute), -(-len(compute) // interval), center, power)
        settings |= {"spacing": spacing, "center": center, "power": power}
    else:
        key = range(0, len(compute), interval)
    between = np.ones(len(compute), dtype=bool)
    between[list(key)] = False
    compute[np.ix_(between, sorted(sites & held))] = False
    return inputs.mask(compute, forecast, method="deepcache", **settings)


def deep_sites(graph: BlockGraph, depth: int = 1, branch: int | None = None) -> set[int]:
    """The sites of a U-Net that do not always run: below `depth` levels, or beyond skip number `branch`.

    Raises:
        StepMaskError: The model is no U-Net, or has nothing so deep.
    """
    levels = [site.depth for site in graph.sites]
    if None in levels:
        raise StepMaskError(f"DeepCache needs a U-Net, whose sites have levels; {INSTEAD}")
    if branch is None:
        if not 1 <= depth <= max(levels):
            raise StepMaskError(f"depth must lie between 1 and {max(levels)} for this U-Net, got {depth}")
        return {i for i, level in enumerate(levels) if level >= depth}
    parts = parts_of(graph, "DeepCache by branch", "give depth instead")
    away = distances(graph, parts)
    last = max(d for d, part in zip(away, parts, strict=True) if part == "up") - ("mid" not in parts)
    if isinstance(branch, bool) or not isinstance(branch, int) or not 0 <= branch <= last:
        raise StepMaskError(f"branch must lie between 0 and {last} for this U-Net, got {branch!r}")
    return {i for i, distance in enumerate(away) if distance is None or distance > branch}


def quad_steps(num_rows: int, count: int, center: int, power: float) -> list[int]:
    """About `count` key steps of `num_rows`, densest around `center`, 0 always among them.

    The original spaces points evenly between the `power`-th roots of ``-center`` and ``num_rows - center``, raises
    them to `power`, and lowers `power` until rounding leaves `count` different steps. The first root is one of a
    negative number: numpy takes the principal one, so the points lie on a line in the complex plane, of which the real
    part counts. That is what was published and measured, so that is what is done here.

    Raises:
        StepMaskError: `center` lies outside of the run, or `power` is not between 1 and 4.
    """
    if isinstance(center, bool) or not isinstance(center, int) or not 0 <= center < num_rows:
        raise StepMaskError(f"center must be a step between 0 and {num_rows - 1}, got {center!r}")
    if isinstance(power, bool) or not isinstance(power, int | float) or not 1 < power <= 4:
        raise StepMaskError(f"power must be a number over 1 and at most 4, got {power!r}")
    steps = [0]
    while power > 1:
        first, last = complex(-center) ** (1 / power), complex(num_rows - center) ** (1 / power)
        points = np.linspace(first, last, count + 1) ** power
        steps = [0, *(int(step) + center for step in np.unique(np.trunc(points.real))[1:-1])]
        if len(steps) == count:
            break
        power -= 0.02
    return sorted({step for step in steps if 0 <= step < num_rows})
