"""Spectrum: what is skipped is forecast by all outputs so far, fitted by Chebyshev polynomials of the step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.runtime.task import check_whole
from stepmask.schedules import key_steps
from stepmask_lab.rivals.predicted_plan import PredictedPlan, predicted
from stepmask_lab.rivals.predictors import chebyshev

DEGREE, RIDGE = 4, 0.1
WARM_UP, OF_STEPS = 5, 50


def growing_steps(num_rows: int, growth: float, window: float = 2.0, warm_up: int | None = None) -> list[int]:
    """Steps that compute: all of a warm-up, then one after each window, which grows with each.

    Args:
        num_rows: T.
        growth: By how much a window grows; a window is its whole part of steps.
        window: The first.
        warm_up: By default 5 of 50, scaled.
    """
    warm_up = max(1, round(WARM_UP * num_rows / OF_STEPS)) if warm_up is None else warm_up
    check_whole("warm_up", warm_up, 1)
    if not growth >= 0 or not window >= 1:
        raise StepMaskError(f"growth must be at least 0 and window at least 1, got {growth!r} and {window!r}")
    steps = list(range(min(warm_up, num_rows)))
    step = steps[-1]
    while (step := step + math.floor(window)) < num_rows:
        steps.append(step)
        window += growth
    return steps


def spectrum(pipe: Any, num_inference_steps: int = 50, growth: float = 0.75) -> StepMask:
    """The key steps of Spectrum (Han et al., CVPR 2026, arXiv 2603.01623).

    Taken from the authors' code: windows of 2 steps that grow by 0.75 (14 of 50 steps compute) to 3 (10 of 50) after 5
    steps of warm-up; Chebyshev polynomials up to degree 4 of the step, mapped to -1 to 1, fitted by ridge regression of
    0.1 to all outputs so far; the value after the last block is what is forecast. What differs: the map and the warm-up
    scale with the number of steps, where theirs are for 50; nothing is rounded to half precision on the way.

    Args:
        pipe: As for `stepmask.schedules.key_steps`.
        num_inference_steps: Of the run.
        growth: Alpha in the paper.

    Returns:
        A mask; `spectrum_plan` makes what runs.
    """
    num_rows = key_steps(pipe, num_inference_steps, 1).num_rows
    return key_steps(pipe, num_inference_steps, growing_steps(num_rows, growth))


def spectrum_plan(pipe: Any, mask: StepMask, share: float = 1.0) -> PredictedPlan:
    """What runs of a mask by `spectrum`.

    Args:
        pipe: As for `stepmask.apply`.
        mask: The key steps.
        share: Of the regression; the rest is a line, which the authors recommend beside it since (0.5 to 1).
    """
    computed = np.flatnonzero(mask.compute.all(1)).tolist()
    return predicted(pipe, mask, chebyshev(computed, mask.num_rows, DEGREE, RIDGE, share))
