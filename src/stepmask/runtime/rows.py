"""Which rows of a run a pipeline's call really runs: late starts, early ends, guidance that ends on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from stepmask.errors import StepMaskError
from stepmask.inspection.first_step import follow
from stepmask.inspection.inputs import num_samples
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.mask import Action, StepMask
from stepmask.runtime.position import PositionTracker, timestep_of, window


def rows_called(pipe: Any, call_kwargs: Mapping[str, Any], num_inference_steps: int) -> range | None:
    """The rows at which a call runs the denoiser, found by a run on zeros; None where they cannot be told.

    Raises:
        StepMaskError: The number of inputs changes on the way, so that rows do not cost alike.
    """
    if isinstance(pipe, nn.Module | SamplerLoop) or not callable(pipe):
        return None
    if not call_kwargs and PipelineCall(pipe).default("strength") is None:
        return None
    tracker, calls = PositionTracker(), []

    def note(args: tuple, kwargs: dict) -> None:
        position = tracker.locate(pipe.scheduler, timestep_of(args, kwargs))
        if position.stream == 0:
            calls.append((position.row, num_samples([*args, *kwargs.values()])))

    with only_rows(None):
        error = follow(pipe, call_kwargs, num_inference_steps, note)
    rows, batches = [row for row, _ in calls], [batch for _, batch in calls]
    if error is not None or not rows or rows != list(range(rows[0], rows[0] + len(rows))):
        return None
    if len(set(batches)) > 1:
        changed = next(row for row, batch in calls if batch != batches[0])
        raise StepMaskError(
            f"the call of {type(pipe).__name__} gives its denoiser {batches[0]} inputs at row {rows[0]} and others "
            f"from row {changed} on (guidance that a callback ends?), and the budget of a mask is counted over rows "
            "that cost alike: learn without that, evaluate says what the mask costs with it"
        )
    return range(rows[0], rows[-1] + 1)


@contextlib.contextmanager
def only_rows(rows: range | None) -> Iterator[None]:
    """Let all runs of this thread have these rows alone for a while; None lets them have all."""
    before = window.set(rows)
    try:
        yield
    finally:
        window.reset(before)


def cut_to(mask: StepMask, rows: range) -> StepMask:
    """The part of a mask that a call runs, whose first row computes everything."""
    actions = mask.actions[rows.start : rows.stop]
    actions[0] = Action.compute
    timesteps = mask.timesteps[rows.start : rows.stop]
    return mask.with_actions(actions, timesteps=timesteps, **mask.forecasting(rows))


def put_back(mask: StepMask, rows: range, timesteps: Sequence[float]) -> StepMask:
    """The inverse: a mask for the whole run, which computes at all rows that the call does not run."""

    def padded(table: np.ndarray | None) -> np.ndarray | None:
        if table is None:
            return None
        wide = np.ones((len(timesteps), *table.shape[1:]), table.dtype)
        wide[rows.start : rows.stop] = table
        return wide

    return mask.with_actions(
        padded(mask.actions),
        timesteps=timesteps,
        gains=padded(mask.gains),
        channel_gains=mask.channel_gains,
        weights=mask.weights and {site: padded(table) for site, table in mask.weights.items()},
        scores=padded(mask.scores),
        provenance={**mask.provenance, "rows_run": [rows.start, rows.stop - 1]},
    )
