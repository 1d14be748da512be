"""L2P: each output is predicted from all outputs before it, with weights that were fitted on full runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepmask.mask import StepMask
from stepmask_lab.rivals.outputs import Outputs, record_outputs
from stepmask_lab.rivals.predicted_plan import PredictedPlan, predicted, with_facts
from stepmask_lab.rivals.predictors import rolled_out

NUM_IMAGES = 50
RIDGE = 1e-4

SCHEDULES = {
    5: (0, 1, 2, 4, 6, 9, 14, 23, 30, 37, 44),
    6: (0, 1, 2, 4, 7, 14, 23, 31, 38, 45),
    7: (0, 1, 2, 4, 9, 17, 26, 35, 43),
    8: (0, 1, 2, 4, 10, 20, 31, 41),
}
"""Key steps of 50 in the authors' code, by what they call the interval."""


def l2p_plan(
    pipe: Any, mask: StepMask, *, ridge: float = RIDGE, num_images: int = NUM_IMAGES, **options: Any
) -> PredictedPlan:
    """Fit L2P's weights and put them in place of a mask's lines (Shen et al., CVPR 2026, arXiv 2604.26365).

    Taken from the paper's abstract and the authors' code: one weight for each step and each earlier step, that predict
    an output from all those before it; fitted on 50 full runs to the next step's output, in the mean square; at run
    time predictions stand in for the outputs that were skipped. So one fit serves any key steps.

    What differs: they take 201 steps of Adam from weights that hold, here it is their least squares solution, drawn to
    the same weights by a small ridge; the output is the value of all blocks together, before the last layer; and key
    steps are those of the mask, where theirs are given by hand for 50 steps (`SCHEDULES`).

    Args:
        pipe: As for `record_outputs`.
        mask: Its cells that do not compute forecast, as `stepmask.schedules.key_steps` makes them.
        ridge: Of the mean square of the outputs.
        num_images: As for `record_outputs`.
        options: Those of `record_outputs`.

    Returns:
        A plan for `stepmask.apply` and `stepmask.evaluate`, whose mask's provenance has what the fit took.
    """
    steps = mask.provenance.get("num_inference_steps") or mask.num_rows
    outputs = record_outputs(pipe, steps, num_images=num_images, **options)
    computed = np.flatnonzero(mask.compute.all(1)).tolist()
    plan = predicted(pipe, mask, rolled_out(weights(outputs, ridge), computed))
    return with_facts(plan, predictor="l2p", ridge=ridge, **outputs.facts)


def weights(outputs: Outputs, ridge: float = RIDGE) -> np.ndarray:
    """(T, T): row t has the weights of all earlier outputs in that of step t.

    Args:
        outputs: Of full runs.
        ridge: How much is added to the square error for a weight that is 1 off from holding.
    """
    products = outputs.products.mean(0)
    found = np.zeros_like(products)
    for row in range(1, len(products)):
        hold = np.eye(row)[-1]
        known, wanted = products[:row, :row] + ridge * np.eye(row), products[:row, row] + ridge * hold
        found[row, :row] = np.linalg.solve(known, wanted)
    return found
