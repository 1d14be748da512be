"""The model and the run that a foreign schedule is read for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stepmask.errors import StepMaskError
from stepmask.graph import BlockGraph
from stepmask.schedules.inputs import ScheduleInputs

MAX_BYTES = 64 * 2**20
"""Larger files are refused: published schedules have some kilobytes."""
MAX_STEPS = 10_000


def inputs_for(
    graph_or_pipe: Any, timesteps: int | Iterable[float] | None, num_rows: int, source: str
) -> ScheduleInputs:
    """Graph, timesteps and identity for a schedule of `num_rows` steps.

    Raises:
        StepMaskError: The run has another number of steps.
    """
    if timesteps is None:
        if isinstance(graph_or_pipe, BlockGraph):
            raise StepMaskError(
                f"{source} has {num_rows} steps but not their timesteps: with a graph give scheduler.timesteps.tolist()"
            )
        timesteps = num_rows
    inputs = ScheduleInputs(graph_or_pipe, timesteps)
    if len(inputs.timesteps) != num_rows:
        raise StepMaskError(
            f"{source} has {num_rows} steps, the run has {len(inputs.timesteps)}: give the number of steps, and a "
            "scheduler, that the schedule was made for"
        )
    return inputs
