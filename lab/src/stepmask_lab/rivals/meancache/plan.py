"""MeanCache: a budgeted shortest path over errors of average velocities, and a corrected velocity between key steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.runtime.task import check_whole
from stepmask_lab.rivals.noise_levels import flow_times
from stepmask_lab.rivals.outputs import Outputs, record_outputs
from stepmask_lab.rivals.paths import cheapest_path
from stepmask_lab.rivals.predicted_plan import PredictedPlan, predicted
from stepmask_lab.rivals.predictors import average_velocity

SPANS = (1, 2, 3, 4, 5, 6)
PEAKS = 2.0
"""Within 0.1 dB of the best of 1, 2, 4 and 8 on the DiT and on ddpm, at 6 and 10 of 20 steps, over 6 images."""


def meancache(
    pipe: Any,
    num_inference_steps: int = 50,
    count: int = 20,
    *,
    spans: tuple[int, ...] = SPANS,
    peaks: float = PEAKS,
    **options: Any,
) -> StepMask:
    """The key steps of MeanCache at a budget (Gao et al., ICLR 2026, arXiv 2601.19961).

    Taken from the paper's abstract and the authors' code: a step that does not compute hands out the last velocity,
    corrected by the change from the velocity K steps back to the average since then; for each stretch between two key
    steps, the K whose average velocity over the stretch is nearest to that of the full run; a path of exactly `count`
    key steps, the first and the last step among them, that costs least, with errors raised to a power, so that one
    large error weighs more than several small ones. Spans 1 (which holds) to 6 are those that their schedules name.

    What differs: paths are found on the outputs, but what is handed out at run time is the value of all blocks
    together, before the last layer, so that it runs as a plan; where the model predicts noise, time is that of the flow
    whose Euler steps are those of DDIM; an error is how far the average velocity leads the sample astray by the end of
    the stretch, in the mean square, on a batch of 8 images; the power is ours, since theirs is not in their code.

    Args:
        pipe: As for `record_outputs`; or `Outputs`.
        num_inference_steps: As for `record_outputs`.
        count: Number of key steps, at least 2.
        spans: What K may be.
        peaks: The power of errors.
        options: Those of `record_outputs`.

    Returns:
        A mask; `meancache_plan` makes what runs.

    Raises:
        StepMaskError: There are not so many steps.
    """
    check_whole("count", count, 2)
    outputs = pipe if isinstance(pipe, Outputs) else record_outputs(pipe, num_inference_steps, **options)
    if count > outputs.num_rows:
        raise StepMaskError(f"count must be a number of steps from 2 to {outputs.num_rows}, got {count!r}")
    errors = stretches(outputs, spans)
    path = cheapest_path(costs(errors.min(0), peaks), count)
    chosen = np.ones(outputs.num_rows, dtype=int)
    for begin, end in pairwise(path):
        chosen[begin:end] = spans[errors[:, begin, end].argmin()]
    return outputs.mask(path, method="meancache", spans=chosen.tolist(), peaks=peaks)


def meancache_plan(pipe: Any, mask: StepMask) -> PredictedPlan:
    """What runs of a mask by `meancache`, in the pipeline that it was made for."""
    known = mask.provenance
    return predicted(pipe, mask, average_velocity(known["steps"], flow_times(pipe.scheduler), known["spans"]))


def stretches(outputs: Outputs, spans: tuple[int, ...]) -> np.ndarray:
    """(K, T, T) error of the average velocity between any two key steps, on the full run; infinite backwards."""
    num_rows = outputs.num_rows
    found = np.full((len(spans), num_rows, num_rows), np.inf)
    for begin in range(num_rows - 1):
        found[:, begin, begin + 1] = 0.0
    pairs = [(begin, end) for begin in range(num_rows) for end in range(begin + 2, num_rows)]
    for i, span in enumerate(spans):
        factors = np.zeros((len(pairs), num_rows))
        for pair, (begin, end) in enumerate(pairs):
            computed = [row for row in range(num_rows) if not begin < row < end]
            table = average_velocity(computed, outputs.times, [span] * num_rows)[begin:end]
            factors[pair] = outputs.moves[begin:end] @ (table - np.eye(num_rows)[begin:end])
        for (begin, end), error in zip(pairs, outputs.errors(factors), strict=True):
            found[i, begin, end] = error
    return found


def costs(errors: np.ndarray, peaks: float) -> np.ndarray:
    """(T, T, T + 1) for `cheapest_path`, of paths that end with the last step."""
    num_rows = len(errors)
    found = np.full((num_rows, num_rows, num_rows + 1), np.inf)
    found[:, :, :num_rows] = errors**peaks
    found[:, num_rows - 1, num_rows] = 0.0
    return found
