"""The threshold of a calibrated schedule: as the user gives it, or so that the mask meets a share of the MACs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError, TargetError
from stepmask.liveness import rows_of
from stepmask.mask import StepMask
from stepmask_lab.rivals.calibrated.recording import Recording, record

HALVINGS = 50


def recording_of(pipe: Any, num_inference_steps: int, options: dict[str, Any]) -> Recording:
    """What was recorded before, or is now."""
    if not isinstance(pipe, Recording):
        return record(pipe, num_inference_steps, **options)
    if options:
        raise StepMaskError(f"a recording is made already: leave {', '.join(options)} out, or give the pipeline")
    return pipe


def check_asked(threshold: float | None, target_macs: float | None) -> None:
    """Raise unless one of both is given, before anything runs."""
    if (threshold is None) == (target_macs is None):
        raise StepMaskError("give a threshold, or target_macs as a share of the full run: one of both")
    if threshold is not None and (
        isinstance(threshold, bool) or not isinstance(threshold, int | float) or not threshold >= 0
    ):
        raise StepMaskError(f"threshold must be a number of at least 0, got {threshold!r}")


def decide(
    recording: Recording,
    rule: Callable[[float], np.ndarray],
    threshold: float | None,
    target_macs: float | None,
    largest: float,
    **provenance: Any,
) -> StepMask:
    """The mask of a rule at a threshold, or at one that meets the target.

    Args:
        recording: What the rule looks at.
        rule: From a threshold to (T, B) bool.
        threshold: As given.
        target_macs: Kept share of the full run's MACs, after elimination.
        largest: No larger threshold changes the mask.
        provenance: The name of the method and its settings.

    Raises:
        TargetError: The rule cannot make a mask that costs so little.
    """

    def cost(value: float) -> float:
        return recording.budget.cost(rows_of(rule(value)))

    if threshold is None:
        recording.budget.check_target(target_macs, len(recording.timesteps))
        low, threshold = 0.0, float(largest)
        cheapest = cost(threshold)
        if cheapest > target_macs:
            raise TargetError(
                f"target_macs={target_macs:g} cannot be reached by {provenance['method']}: with everything skipped "
                f"that it may skip, the run costs {cheapest:.4f}; ask for {np.ceil(cheapest * 1000) / 1000:g} or more"
            )
        for _ in range(HALVINGS):
            middle = (low + threshold) / 2
            if cost(middle) <= target_macs:
                threshold = middle
            else:
                low = middle
        provenance["target_macs"] = target_macs
    return recording.mask(rule(threshold), threshold=threshold, **provenance)
