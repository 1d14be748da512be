"""Where in the scheduler's run a denoiser call stands: its row, and whether a new run has begun.

The row is read from the scheduler at every call, never counted here, so that late starts, second-order schedulers,
aborted runs and the next call are right by themselves. Where a scheduler keeps no index (DDIM, DDPM) the timestep
itself says the row; the denoiser's argument is not trusted otherwise, since some pipelines rescale it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stepmask.errors import PositionError
from stepmask.inspection.architecture import TIMESTEP_NAMES

RESCALED_TO = 2e-3
"""How exactly a timestep between 0 and 1 must be that of a row: bfloat16 has so many digits near 1."""


window: ContextVar[range | None] = ContextVar("window", default=None)
"""Rows that all runs have for now, counted from the first of them: learning sees those alone that a call runs."""

MOST_CALLS = 256
"""More calls within a row are refused: each keeps values of its own."""


_CPU = torch.device("cpu")


class Position(NamedTuple):
    """One denoiser call."""

    row: int
    """Row of the scheduler's run, 0 first."""
    stream: int
    """Number of the call within the row: 0, and 1 for the second of two guidance calls."""
    new_run: bool
    """Whether this is the first call of a run."""


def timestep_of(args: tuple, kwargs: dict) -> Any:
    """The timestep among the arguments of a denoiser call: by name, else the second."""
    name = next((name for name in TIMESTEP_NAMES if name in kwargs), None)
    return args[1] if name is None and len(args) > 1 else kwargs.get(name)


class PositionTracker:
    """Follows one denoiser through the runs of a scheduler.

    Args:
        by_own_pipeline: Says whether a call comes from the pipeline that the scheduler belongs to. Asked only where the
            scheduler itself does not tell the row.
    """

    def __init__(self, by_own_pipeline: Callable[[], bool] = lambda: False) -> None:
        self._by_own_pipeline = by_own_pipeline
        self._timesteps: Tensor | None = None  # kept alive: a new run is a new tensor
        self._row = -1
        self._stream = 0
        self._began = 0  # the first row of the run
        self._first_row = 0
        self._keeps_index = True  # the scheduler, in one way or another
        self._how: str | None = None  # how the run's first call named its row
        self._timestep: Any = None  # the argument of the row's first call
        self._most_calls = 0  # of a row, among those that are over

    def follows(self, scheduler: Any) -> bool:
        """Whether the scheduler's run is the one that is followed."""
        return scheduler.timesteps is self._timesteps

    def locate(self, scheduler: Any, timestep: Any) -> Position:
        """The position of a call by its timestep argument, a number or a tensor.

        Raises:
            PositionError: The scheduler has no run, or does not tell where it stands.
        """
        timesteps = scheduler.timesteps
        if timesteps is None or not _has_run(scheduler):
            raise PositionError(
                f"the {type(scheduler).__name__} that the mask follows has no run: call its set_timesteps first; if "
                "another pipeline uses the same denoiser, remove the mask before"
            )
        new_run = timesteps is not self._timesteps
        if new_run or getattr(timestep, "device", _CPU) == _CPU:  # elsewhere reading values waits
            check_one_step(timestep)
        row = self._row_of(scheduler, timestep, new_run)
        if not 0 <= row < len(timesteps):
            raise PositionError(
                f"the denoiser was called after the end of the run of its {type(scheduler).__name__}: call "
                "set_timesteps for a new run; if another pipeline uses the same denoiser, remove the mask before"
            )
        if not new_run and row < self._row:
            if row > 0:
                raise PositionError(
                    f"the denoiser was called at row {row} after row {self._row} of the same run: call set_timesteps "
                    "before a new run; if another pipeline uses the same denoiser, remove the mask before"
                )
            new_run = True
        if new_run:
            self._warn_of_copies(scheduler, row)
            self._began = row
        stream = self._stream + 1 if row == self._row and not new_run else 0
        how = _how_named(timesteps, timestep, row)
        if timesteps is not self._timesteps:
            self._how = how
        elif self._how not in (None, how):
            raise _stranger(scheduler, f"a timestep that is not the one at row {row}")
        if stream == 0:
            if not new_run and self._row == 1 and self._stream + 1 < self._most_calls:
                warnings.warn(
                    f"the denoiser was called {self._most_calls} times at row 0 of a run, {self._stream + 1} at row 1: "
                    "if a call before the run was to warm up, or a run was broken off, call set_timesteps after it; "
                    "the first call's values are used otherwise",
                    stacklevel=4,
                )
            self._most_calls = 0 if new_run else max(self._most_calls, self._stream + 1)
            self._timestep = timestep
        elif stream >= self._most_calls:
            self._check_same_row(scheduler, timestep, row, stream)
        self._timesteps, self._row, self._stream = timesteps, row, stream
        rows = window.get()
        if rows is not None and row not in rows:
            raise PositionError(
                f"the denoiser was called at row {row} of its run, and the calls that were tried before were at rows "
                f"{rows[0]} to {rows[-1]}: give call_kwargs with which every run begins and ends alike"
            )
        return Position(row if rows is None else row - rows.start, stream, new_run)

    def _warn_of_copies(self, scheduler: Any, row: int) -> None:
        """Tell where a run of one step is followed by another that begins at its second step."""
        before, now = self._timesteps, scheduler.timesteps
        if before is None or not 0 < row == self._began + 1 == self._row + 1:
            return
        if before.shape == now.shape and torch.equal(before.cpu(), now.cpu()):
            warnings.warn(
                f"the run of {type(scheduler).__name__} was replaced by an equal one after a step, as where a pipeline "
                "steps copies of its scheduler (panoramas do): each call begins a run of its own then, in which "
                "everything computes, and the mask has no effect",
                stacklevel=4,
            )

    def _check_same_row(self, scheduler: Any, timestep: Any, row: int, stream: int) -> None:
        """See that one more call of a row belongs to it."""
        if _value(timestep) != _value(self._timestep):
            raise _stranger(scheduler, f"another timestep than before, still at row {row}")
        if not _alike(timestep, self._timestep):
            raise _at_different_steps("frames")
        if stream >= MOST_CALLS:
            raise again_and_again(row)

    @property
    def most_calls(self) -> int:
        """Of a row, among those of this run that are over."""
        return self._most_calls

    def _row_of(self, scheduler: Any, timestep: Any, new_run: bool) -> int:
        near = None if new_run else self._row
        if new_run:
            self._keeps_index = any(hasattr(scheduler, name) for name in ("step_index", "begin_index", "counter"))
        if not self._keeps_index:
            return match_row(scheduler, timestep, near)
        step_index = getattr(scheduler, "step_index", None)
        if step_index is not None:
            return int(step_index)
        begin_index = getattr(scheduler, "begin_index", None)
        if begin_index is not None:
            return int(begin_index)
        counter = getattr(scheduler, "counter", None)  # PNDM
        if counter is not None:
            if new_run or counter == 0:
                self._first_row = match_row(scheduler, timestep, near) - int(counter)
            return self._first_row + int(counter)
        if not hasattr(scheduler, "step_index"):
            return match_row(scheduler, timestep, near)
        try:
            row = match_row(scheduler, timestep, near)
        except PositionError:
            if not self._by_own_pipeline():
                raise
            return near or 0  # however it says the timestep; where it begins late, the next row tells
        if not new_run and row != self._row and not self._by_own_pipeline():  # it may step copies of its scheduler
            raise _stranger(scheduler, f"the timestep of row {row}, but its step has never been called")
        return row


def _has_run(scheduler: Any) -> bool:
    """Whether a scheduler's timesteps were set, by their number or, which not all of them count, one by one."""
    if getattr(scheduler, "num_inference_steps", 1) is not None or getattr(scheduler, "custom_timesteps", False):
        return True
    return len(scheduler.timesteps) != getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)


def check_one_step(timestep: Any) -> None:
    """See that all samples of a batch stand at one step; tokens of a sample may be clean, or nearly.

    Raises:
        PositionError: They do not.
    """
    if not isinstance(timestep, Tensor) or timestep.dim() == 0 or timestep.numel() == 1 or _is_expanded(timestep):
        return
    largest = timestep if timestep.dim() == 1 else timestep.flatten(1).max(dim=1).values
    if (largest != largest[0]).any():
        raise _at_different_steps("samples")


def _at_different_steps(what: str) -> PositionError:
    return PositionError(
        f"the {what} of one denoiser call stand at different steps, and a mask has one row for all of them: sample "
        "them together from the first step on (without stream batches, parallel or asynchronous steps), or remove the "
        "mask"
    )


def again_and_again(row: int) -> PositionError:
    """What to raise where a denoiser is called without end at a row."""
    return PositionError(
        f"the denoiser is called again and again at row {row} of its run, and each call keeps values of its own: call "
        "the scheduler's step after each, or set_timesteps before a new run; or remove the mask"
    )


def _stranger(scheduler: Any, what: str) -> PositionError:
    return PositionError(
        f"the mask follows a run of {type(scheduler).__name__}, and the denoiser was called with {what}: does another "
        "pipeline use the same denoiser? Remove the mask before that"
    )


def _value(timestep: Any) -> float | None:
    """One value of a timestep argument, rescaled or not; of one per token, where some tokens are clean, the largest."""
    return None if timestep is None else float(torch.as_tensor(timestep).max())


def _alike(one: Any, other: Any) -> bool:
    """Whether two timestep arguments of the same form say the same of every token."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape or one.dim() < 2:
        return True
    return bool(torch.equal(one, other))


def _how_named(timesteps: Tensor, timestep: Any, row: int) -> str | None:
    """How a denoiser call names its row: by a view of ``timesteps``, by an equal value, or neither.

    Neither is nothing bad (a rescaled argument, or one on an accelerator, whose value is not read here); but a
    pipeline does it in the same way at every step, so a change tells that another one calls. Another one that rescales
    too is told by its second step: its timesteps change, while the scheduler stays where it is.
    """
    if isinstance(timestep, Tensor):
        found = _row_in_storage(timesteps, timestep)
        if found is not None:
            return "view" if found == row else None
        if "cpu" != timestep.device.type or "cpu" != timesteps.device.type:
            return None
        return "value" if timestep.max() == timesteps[row].to(timestep.dtype) else None
    return "value" if timestep is not None and float(timestep) == float(timesteps[row]) else None


def match_row(scheduler: Any, timestep: Any, near: int | None = None) -> int:
    """The row at which a timestep stands: where it lies in ``scheduler.timesteps``, else the only equal value.

    Args:
        scheduler: A scheduler in the middle of a run.
        timestep: The denoiser's argument, in any dtype: bfloat16 does not tell all timesteps apart. Of one per token,
            where those of a given image are clean, the largest counts.
        near: The row of the call before, in the same run: of several rows it is that one or the next.

    Raises:
        PositionError: No row or several rows have this value.
    """
    timesteps: Tensor = scheduler.timesteps
    if timestep is None:
        raise PositionError(
            "the denoiser was called without a timestep that the mask could tell the row by: pass it as the second "
            f"argument, or as {' or '.join(TIMESTEP_NAMES)}"
        )
    dtype = torch.float64
    if isinstance(timestep, Tensor):
        row = _row_in_storage(timesteps, timestep)
        if row is not None:
            return row
        timesteps = timesteps.to(timestep.dtype)  # as pipelines and models cast it
        if timestep.is_floating_point():
            dtype = timestep.dtype
        timestep = _value(timestep)
    rows = torch.nonzero(timesteps.to("cpu", torch.float64) == float(timestep)).flatten().tolist()
    if hasattr(scheduler, "step_index") and 0 < float(timestep) <= 1:
        # some pipelines say t / 1000 and no begin index (Flux with a ControlNet); the scheduler counts after that
        trained = getattr(scheduler.config, "num_train_timesteps", 1000)
        rescaled = _near(scheduler.timesteps.to("cpu", torch.float64) / trained, timestep)
        begins = rescaled == [0] and (near is None or (near == 0 and rows != [1]))
        rows = rescaled if not rows or begins else rows  # the last timestep may be 1 too, but runs begin at row 0
        sigmas = getattr(scheduler, "sigmas", None)
        if not rows and sigmas is not None:  # others say sigma / (sigma + 1) (Cosmos Predict 2)
            sigmas = sigmas[: len(timesteps)].to("cpu", torch.float64)
            rows = _near((sigmas / (sigmas + 1)).to(dtype).double(), timestep)
    if len(rows) > 1 and near is not None:
        rows = [row for row in rows if row in (near, near + 1)] or rows
    if len(rows) == 1:
        return rows[0]
    found = "no row" if not rows else f"{len(rows)} rows"
    raise PositionError(
        f"{found} of the {type(scheduler).__name__}'s run has timestep {float(timestep):g}, so the mask cannot tell "
        "where the run stands: does another pipeline or scheduler use the same denoiser? Remove the mask before that. "
        "No mask follows a loop that says noise levels in the place of timesteps, as KarrasVePipeline does"
    )


def _near(values: Tensor, timestep: Any) -> list[int]:
    """Rows whose value is this, or nearly; row 0 alone where it is."""
    away = (values - float(timestep)).abs()
    return [0] if away[0] < 1e-6 else torch.nonzero(away < RESCALED_TO).flatten().tolist()


def _row_in_storage(timesteps: Tensor, timestep: Tensor) -> int | None:
    """Row of an element or expanded view of `timesteps`, found without reading its value (no device sync)."""
    if timestep.dtype != timesteps.dtype or not _is_expanded(timestep):
        return None
    if timestep.untyped_storage().data_ptr() != timesteps.untyped_storage().data_ptr():
        return None
    return (timestep.storage_offset() - timesteps.storage_offset()) // (timesteps.stride(0) or 1)


def _is_expanded(tensor: Tensor) -> bool:
    """Whether a tensor is a single number, stored once."""
    return all(stride == 0 or size == 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
