"""Key steps: every block computes at them and is forecast between; by default densest at the beginning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.graph import Level
from stepmask.mask import StepMask
from stepmask.nesting import parents_of
from stepmask.schedules.deepcache import deep_sites
from stepmask.schedules.inputs import Forecast, ScheduleInputs, check_steps
from stepmask.schedules.registry import register

POWER = 1.2
"""Best of 1, 1.1, 1.2 and 1.35 at most budgets of 20 steps on two of our reference models, over 8 images. Of 50
steps, half of them, even spacing was better (50.8 against 46.9 dB on the DiT). `stepmask.learn` tries all of them."""


@register
def key_steps(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float],
    steps: int | Iterable[int] | None = None,
    power: float = POWER,
    forecast: Forecast | None = "linear",
    level: Level = "stack",
    shallow: Iterable[int] = (),
) -> StepMask:
    """All blocks compute at some steps and are forecast between: FORA for any budget, spaced as forecasts need it.

    A forecast extrapolates two values, so the second computation has to come early: until then there is nothing but
    the first to go by, and what is lost there the run never makes up for. Ours; needs no learning.

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        steps: How many compute, step 0 included, or which; by default half of them.
        power: Where `steps` is a number, step i of n is ``T (i / n) ** power``: 1 spaces them evenly, more puts more
            of them at the beginning.
        forecast: ``"linear"`` extrapolates the two values computed last between key steps; None holds the last.
        level: ``"stack"`` forecasts the value of all blocks together, which takes the least cache and the least time;
            ``"block"`` and ``"branch"`` those of each block, or of the parts that are added up within them.
        shallow: Further steps, at which a U-Net computes its blocks at full resolution alone. One soon after step 0
            costs little, and from then on there are two values to extrapolate.

    Raises:
        StepMaskError: `steps` or `shallow` are not steps of the run, `power` is below 1, or what shall be shallow is
            no U-Net.
    """
    inputs = ScheduleInputs(graph_or_pipe, timesteps, level)
    num_rows = len(inputs.timesteps)
    if steps is None:
        steps = (num_rows + 1) // 2
    if isinstance(steps, int):
        steps = spaced(num_rows, steps, power)
    computes = check_steps(steps, num_rows, "steps")
    if not computes[0]:
        raise StepMaskError("steps must include step 0: there is nothing to reuse before it")
    at_first_level = check_steps(shallow, num_rows, "shallow") & ~computes
    facts = {"steps": np.flatnonzero(computes).tolist()}
    graph, deep = inputs.whole, set()
    sites = {graph.names.index(name) for name in inputs.graph.names}
    if at_first_level.any():
        facts["shallow"] = np.flatnonzero(at_first_level).tolist()
        deep, parents = deep_sites(graph), parents_of(graph.names)
        sites |= {site for site in deep if parents[site] in sites - deep}
    sites = sorted(sites)
    compute = np.ones((num_rows, len(sites)), dtype=bool)
    compute[np.ix_(~computes, [site in graph.blocks for site in sites])] = False
    compute[np.ix_(at_first_level, [site not in deep for site in sites])] = True
    return inputs.mask(compute, forecast, [graph.names[site] for site in sites], method="key_steps", **facts)


def shallow_step(steps: Sequence[int]) -> int | None:
    """Which step between the first two of some key steps had best be shallow; None where there is none between."""
    early = max(1, round(steps[1] / 3)) if len(steps) > 1 else 0
    return early if 0 < early < steps[1] else None


def spaced(num_rows: int, count: int, power: float = POWER, last: float = 1.0) -> list[int]:
    """`count` steps of `num_rows`, step i at ``num_rows (i / n) ** power``, rounded, no two the same.

    Here n is ``count - 1 + last``: the stretch after the last of them is `last` times as long as spacing has it.

    Raises:
        StepMaskError: There are not so many steps, or `power` is below 1.
    """
    if isinstance(count, bool) or not 1 <= count <= num_rows:
        raise StepMaskError(
            f"steps must be a number of steps from 1 to {num_rows}, or the steps themselves, got {count!r}"
        )
    if isinstance(power, bool) or not isinstance(power, int | float) or not 1 <= power <= 4:
        raise StepMaskError(f"power must be a number from 1 to 4, got {power!r}")
    wanted = num_rows * (np.arange(count) / (count - 1 + last)) ** power
    # evenly spaced ones are cut off, not rounded: rather early than late
    near = np.floor(wanted) if power == 1 else np.round(wanted)
    steps = np.maximum.accumulate(near - np.arange(count)) + np.arange(count)
    latest = num_rows - count + np.arange(count)
    return np.minimum(steps, latest).astype(int).tolist()
