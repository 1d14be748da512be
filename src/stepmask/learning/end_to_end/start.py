"""Masks that a search starts from: learned before a fine-tune or for another sampler, or made by any other method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.family import MaskFamily
from stepmask.learning.budget import Budget
from stepmask.learning.end_to_end.tables import Table
from stepmask.mask import Action, StepMask

Start = StepMask | MaskFamily | Iterable[StepMask]


def list_of(start: Start | None) -> list[StepMask]:
    """The masks of whatever a user gave.

    Raises:
        StepMaskError: It is none.
    """
    if start is None:
        return []
    if isinstance(start, MaskFamily):
        return [member.mask for member in start]
    given = list(start) if isinstance(start, Iterable) else [start]
    for mask in given:
        if not isinstance(mask, StepMask):
            raise StepMaskError(
                f"start takes a StepMask, a MaskFamily or several masks, got {type(mask).__name__}: "
                "StepMask.load and MaskFamily.load read files"
            )
    return given


def table_of(mask: StepMask, budget: Budget, timesteps: Sequence[float], allowed: Sequence[Action]) -> Table:
    """The mask on the rows of a run; resampled if it has other timesteps.

    Args:
        mask: Of this model.
        budget: Of the model.
        timesteps: T timesteps of the run.
        allowed: Actions that cells may take instead of computing.

    Raises:
        StepMaskError: It belongs to another model, or forecasts where that is not allowed.
    """
    mask.check(graph=budget.graph)
    if Action.linear not in allowed and not mask.is_binary:
        raise StepMaskError("a mask to start from forecasts, and forecast=False allows none: leave one of them out")
    if not np.array_equal(mask.timesteps, timesteps):
        mask = mask.resample(timesteps)
    return Table.of(mask, budget)
