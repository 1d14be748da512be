"""What of a run a pipeline's call really runs: late starts, early ends, guidance that ends, denoisers in turns."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from stepmask.cost import CostTable
from stepmask.errors import StepMaskError
from stepmask.inspection.first_step import follow
from stepmask.inspection.inputs import num_samples
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.registry import denoisers_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.liveness import Plan, in_turn
from stepmask.mask import Action, StepMask
from stepmask.runtime.position import PositionTracker, timestep_of, window
from stepmask.runtime.streams import Call


@dataclass(frozen=True)
class Course:
    """What a call runs.

    Attributes:
        rows: The rows of the scheduler's run at which the denoiser is called.
        inputs: Inputs of the denoiser at each of these rows, over all its calls.
        anew: Which of them drop all that was cached, and compute in full, counted from the first one, which is none.
    """

    rows: range
    inputs: tuple[int, ...]
    anew: tuple[int, ...] = ()

    @property
    def is_even(self) -> bool:
        """Whether all rows cost alike and go on from the row before."""
        return len(set(self.inputs)) == 1 and not self.anew

    def to_list(self) -> list[list[int]]:
        """All of it as JSON."""
        return [[self.rows.start, self.rows.stop], list(self.inputs), list(self.anew)]

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """First row of each stretch that begins in full, and the row after its last."""
        return list(pairwise((0, *self.anew, len(self.rows))))

    def most(self, num_bytes: int, costs: CostTable) -> int:
        """Bytes at the row with most inputs, of bytes as costs have them, which are those of a first step."""
        return num_bytes * max(self.inputs) // costs.forwards_per_image

    def run_by(self, plan: Plan) -> Plan:
        """What runs of a plan for these rows."""
        plans = [plan.from_row(first) for first, _ in self.stretches]
        return in_turn(plans, [end - first for first, end in self.stretches], self.inputs)

    def in_full(self, mask: StepMask) -> StepMask:
        """A mask for these rows that says compute where a stretch begins."""
        if not self.anew:
            return mask
        actions = mask.actions
        actions[list(self.anew)] = Action.compute
        return mask.with_actions(actions, **mask.forecasting())


def course_of(pipe: Any, call_kwargs: Mapping[str, Any], num_inference_steps: int) -> Course | None:
    """What a call runs, found by a run on zeros; None where it cannot be told.

    Raises:
        StepMaskError: It cannot be told, and the pipeline has several denoisers.
    """
    if isinstance(pipe, nn.Module | SamplerLoop) or not callable(pipe):
        return None
    several = len(denoisers_of(pipe)) > 1
    if not several and not call_kwargs and PipelineCall(pipe).default("strength") is None:
        return None
    followed: dict[nn.Module, _Followed] = defaultdict(_Followed)
    inputs: Counter[int] = Counter()

    def note(denoiser: nn.Module, args: tuple, kwargs: dict) -> None:
        row = followed[denoiser].note(pipe.scheduler, args, kwargs)
        inputs[row] += num_samples([*args, *kwargs.values()]) or 1

    with only_rows(None):
        error = follow(pipe, call_kwargs, num_inference_steps, note)
    rows = sorted(inputs)
    if error is None and rows and rows == list(range(rows[0], rows[-1] + 1)):
        anew = sorted({row - rows[0] for one in followed.values() for row in one.anew} - {0})
        return Course(range(rows[0], rows[-1] + 1), tuple(inputs[row] for row in rows), tuple(anew))
    if several:
        raise StepMaskError(
            f"which denoiser of {type(pipe).__name__} runs at which step could not be seen by a run on zeros "
            f"({error}): give call_kwargs={{...}} with everything that its call needs"
        )
    return None


class _Followed:
    """The calls of one denoiser: where they stand, and which of them go on from nothing."""

    def __init__(self) -> None:
        self._tracker = PositionTracker(by_own_pipeline=lambda: True)
        self._latest: dict[int, tuple[int, Call]] = {}
        self.anew: set[int] = set()

    def note(self, scheduler: Any, args: tuple, kwargs: dict) -> int:
        """Row of the next call."""
        position, call = self._tracker.locate(scheduler, timestep_of(args, kwargs)), Call(args, kwargs)
        row, before = self._latest.get(position.stream, (None, None))
        if row is None or row + 1 != position.row or not call.follows(before):
            self.anew.add(position.row)
        self._latest[position.stream] = position.row, call
        return position.row


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
