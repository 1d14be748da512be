"""TaylorSeer and HiCache: differences of the values at a regular interval, times powers or Hermite polynomials."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from stepmask.graph import Level
from stepmask.mask import StepMask
from stepmask.schedules import key_steps
from stepmask.schedules.inputs import check_interval
from stepmask_lab.rivals.predicted_plan import PredictedPlan, predicted
from stepmask_lab.rivals.predictors import differences, monomial, scaled_hermite

FIRST = 3


def taylorseer(
    pipe: Any, num_inference_steps: int = 50, interval: int = 4, *, first: int = FIRST, level: Level = "branch"
) -> StepMask:
    """The key steps of TaylorSeer (Liu et al., ICCV 2025, arXiv 2503.06923), of HiCache too.

    Taken from their code: the first 3 steps compute, then every k-th; attentions and feed-forwards are forecast one by
    one, in their later versions the value after the last block alone. What differs: in U-Nets, which theirs does not
    run on, sites are the residual blocks, attentions and samplers.

    Args:
        pipe: As for `stepmask.schedules.key_steps`.
        num_inference_steps: Of the run.
        interval: k.
        first: So many steps compute in any case.
        level: ``"branch"`` as published; ``"stack"`` for the value after the last block.

    Returns:
        A mask; `taylorseer_plan` and `hicache_plan` make what runs.
    """
    check_interval(interval)
    num_rows = key_steps(pipe, num_inference_steps, 1).num_rows
    return key_steps(pipe, num_inference_steps, every(num_rows, interval, first), level=level)


def every(num_rows: int, interval: int, first: int = FIRST) -> list[int]:
    """The first steps, then one after each interval from the last of them."""
    first = min(first, num_rows)
    return [*range(first), *range(first - 1 + interval, num_rows, interval)]


def taylorseer_plan(pipe: Any, mask: StepMask, order: int = 2) -> PredictedPlan:
    """What runs of a mask by `taylorseer`: a Taylor series in the distance from the newest value.

    Args:
        pipe: As for `stepmask.apply`.
        mask: The key steps.
        order: Of the highest difference; the authors take 1 to 4.
    """
    computed = np.flatnonzero(mask.compute.all(1)).tolist()
    return predicted(pipe, mask, differences(computed, mask.num_rows, order, monomial))


def hicache_plan(pipe: Any, mask: StepMask, order: int = 2, contraction: float = 0.5) -> PredictedPlan:
    """The same with scaled Hermite polynomials in place of powers (HiCache, Feng et al. 2025, arXiv 2508.16984).

    The polynomial is taken at the distance forward, as the package hicache-pp says that it must be.

    Args:
        pipe: As for `stepmask.apply`.
        mask: The key steps.
        order: Of the highest difference.
        contraction: Sigma, between 0 and 1; 0.5 as published.
    """
    computed = np.flatnonzero(mask.compute.all(1)).tolist()
    basis = partial(scaled_hermite, contraction=contraction)
    return predicted(pipe, mask, differences(computed, mask.num_rows, order, basis))
