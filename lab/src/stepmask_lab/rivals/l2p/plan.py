"""L2P: each output is predicted from all outputs before it, with weights that were fitted on full runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stepmask.mask import StepMask
from stepmask_lab.rivals.outputs import Outputs, record_outputs
from stepmask_lab.rivals.predicted_plan import PredictedPlan, predicted, with_facts
from stepmask_lab.rivals.predictors import rolled_out

NUM_IMAGES = 50
ITERATIONS, RATE = 201, 0.01

SCHEDULES = {
    5: (0, 1, 2, 4, 6, 9, 14, 23, 30, 37, 44),
    6: (0, 1, 2, 4, 7, 14, 23, 31, 38, 45),
    7: (0, 1, 2, 4, 9, 17, 26, 35, 43),
    8: (0, 1, 2, 4, 10, 20, 31, 41),
}
"""Key steps of 50 in the authors' code, by what they call the interval."""


def l2p_plan(pipe: Any, mask: StepMask, *, num_images: int = NUM_IMAGES, **options: Any) -> PredictedPlan:
    """Fit L2P's weights and put them in place of a mask's lines (Shen et al., CVPR 2026, arXiv 2604.26365).

    Taken from the paper's abstract and the authors' code: one weight for each step and each earlier step, that predict
    an output from all those before it; fitted on 50 full runs to the next step's output, in the mean square, by 201
    steps of Adam from weights that hold; at run time predictions stand in for the outputs that were skipped. So one fit
    serves any key steps.

    What differs: the output is the value of all blocks together, before the last layer; and key steps are those of the
    mask, where theirs are given by hand for 50 steps (`SCHEDULES`).

    Args:
        pipe: As for `record_outputs`.
        mask: Its cells that do not compute forecast, as `stepmask.schedules.key_steps` makes them.
        num_images: As for `record_outputs`.
        options: Those of `record_outputs`.

    Returns:
        A plan for `stepmask.apply` and `stepmask.evaluate`, whose mask's provenance has what the fit took.
    """
    steps = mask.num_inference_steps
    outputs = record_outputs(pipe, steps, num_images=num_images, **options)
    computed = np.flatnonzero(mask.compute.all(1)).tolist()
    plan = predicted(pipe, mask, rolled_out(weights(outputs), computed))
    return with_facts(plan, predictor="l2p", **outputs.facts)


def weights(outputs: Outputs, iterations: int = ITERATIONS) -> np.ndarray:
    """(T, T): row t has the weights of all earlier outputs in that of step t.

    Args:
        outputs: Of full runs.
        iterations: Of Adam, from weights that hold.
    """
    products = torch.from_numpy(outputs.values.mean(0))
    earlier = torch.ones_like(products).tril(-1)
    found = torch.eye(len(products), dtype=products.dtype).roll(1, 0) * earlier
    found.requires_grad_(True)
    adam = torch.optim.Adam([found], lr=RATE)
    for _ in range(iterations):
        adam.zero_grad()
        # of the mean square error, which is quadratic in the weights
        found.grad = 2 * earlier * (found.detach() @ products - products) / len(products)
        adam.step()
    return found.detach().numpy()
