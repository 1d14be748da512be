"""DPCache: what a stretch without computation costs depends on the key step before it; a path minimises the sum."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.runtime.task import check_whole
from stepmask_lab.rivals.outputs import Outputs, record_outputs
from stepmask_lab.rivals.paths import cheapest_path
from stepmask_lab.rivals.predicted_plan import PredictedPlan, predicted
from stepmask_lab.rivals.predictors import differences

FIRST, OF_STEPS = 3, 50
ORDER = 2
NUM_IMAGES = 10


def dpcache(
    pipe: Any,
    num_inference_steps: int = 50,
    count: int = 13,
    *,
    first: int | None = None,
    num_images: int = NUM_IMAGES,
    **options: Any,
) -> StepMask:
    """The key steps of DPCache at a budget (Cui et al., CVPR 2026, arXiv 2602.22654).

    Taken from the paper's abstract, its page and the settings of its repository: full runs of about 10 samples; a
    three-dimensional table of what it costs to predict all steps between two key steps, given the key step before them;
    dynamic programming for the cheapest path of exactly `count` key steps; the first 3 steps always among them; the
    value after the last block predicted by Taylor's series of order 2. The code was not at hand.

    What differs: the cost of a stretch is the sum of the lengths of its errors in the model's output, in the mean
    square, of a line through both key steps, which is what two of them can tell; each weighs by how far it moves the
    sample, which for the even steps of a flow is the same for all; the run's end closes the last stretch.

    Args:
        pipe: As for `record_outputs`; or `Outputs`.
        num_inference_steps: As for `record_outputs`.
        count: Number of key steps.
        first: So many steps compute in any case; by default 3 of 50, scaled.
        num_images: As for `record_outputs`.
        options: Those of `record_outputs`.

    Returns:
        A mask; `dpcache_plan` makes what runs.

    Raises:
        StepMaskError: There are not so many steps.
    """
    check_whole("count", count, 1)
    if isinstance(pipe, Outputs):
        outputs = pipe
    else:
        outputs = record_outputs(pipe, num_inference_steps, num_images=num_images, **options)
    if count > outputs.num_rows:
        raise StepMaskError(f"count must be a number of steps from 1 to {outputs.num_rows}, got {count!r}")
    first = max(1, round(FIRST * outputs.num_rows / OF_STEPS)) if first is None else first
    check_whole("first", first, 1)
    return outputs.mask(cheapest_path(path_costs(outputs), count, first), method="dpcache", first=first)


def dpcache_plan(pipe: Any, mask: StepMask) -> PredictedPlan:
    """What runs of a mask by `dpcache`."""
    return predicted(pipe, mask, differences(mask.provenance["steps"], mask.num_rows, ORDER))


def path_costs(outputs: Outputs) -> np.ndarray:
    """(T, T, T + 1) for `cheapest_path`: summed errors between two key steps, given the one before."""
    num_rows = outputs.num_rows
    found = np.full((num_rows, num_rows, num_rows + 1), np.inf)
    unit = np.eye(num_rows)
    for before in range(num_rows):
        for key in range(before + 1 if before else 0, num_rows):
            later = np.arange(key + 1, num_rows)
            slope = (unit[key] - unit[before]) / max(key - before, 1)
            errors = outputs.moves[later] * outputs.errors(unit[key] + (later - key)[:, None] * slope - unit[later])
            found[before, key, key + 1 :] = np.concatenate([[0.0], np.cumsum(errors)])
    return found
