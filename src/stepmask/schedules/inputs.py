"""What every schedule starts from: a graph and timesteps, however the user gave them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.graph import BlockGraph, Level
from stepmask.mask import NOMINAL, TIMESTEPS, StepMask, scheduler_identity
from stepmask.timesteps import says_timesteps, start_run

Forecast = Literal["linear"]
"""What a cell between two computations may do instead of holding."""


MAX_BYTES = 64 * 2**20
"""Larger files are refused: published schedules have some kilobytes."""
MAX_STEPS = 10_000


class ScheduleInputs:
    """Graph, timesteps and identity that a schedule's mask is for.

    Args:
        model: A `BlockGraph`, or anything with ``scheduler`` whose graph `describe` finds (a diffusers pipeline).
        timesteps: With a graph the T timesteps; with a pipeline the number of inference steps.
        level: The level that the schedule decides on, as `BlockGraph.level` has it.

    Attributes:
        whole: All sites.
        graph: The sites of that level alone: of the innermost with the samplers, of others without.
        timesteps: T timesteps.
    """

    def __init__(self, model: Any, timesteps: int | Iterable[float], level: Level = "branch") -> None:
        self.scheduler: dict[str, Any] | None = None
        self.provenance: dict[str, Any] = {}
        if isinstance(model, BlockGraph):
            if isinstance(timesteps, int):
                raise StepMaskError("with a graph give the timesteps themselves: scheduler.timesteps.tolist()")
            self.graph = model
        else:
            if not isinstance(timesteps, int):
                raise StepMaskError("with a pipeline give the number of inference steps, not timesteps")
            from stepmask.inspection.describe import describe  # floors above, for this convenience alone
            from stepmask.inspection.origin import origin_of

            self.graph = describe(model)
            scheduler = copy.deepcopy(model.scheduler)
            start_run(scheduler, timesteps)
            self.scheduler = scheduler_identity(scheduler)
            self.provenance |= {"num_inference_steps": timesteps, **origin_of(model)}
            if not says_timesteps(scheduler):  # the pipeline does; a rule needs their number alone
                self.provenance[TIMESTEPS] = NOMINAL
            timesteps = scheduler.timesteps
        self.timesteps = [float(t) for t in timesteps]
        self.level, self.whole = level, self.graph
        decided = self.graph.level(level)
        self.graph = self.graph.innermost if level == "branch" else self.graph.only(decided)

    def mask(
        self,
        compute: np.ndarray,
        forecast: Forecast | None = None,
        sites: Sequence[str] | None = None,
        **provenance: Any,
    ) -> StepMask:
        """A mask whose cells that do not compute hold, or with `forecast` extrapolate; of `graph` by default."""
        if forecast not in (None, *get_args(Forecast)):
            raise StepMaskError(f"forecast must be None or one of {', '.join(get_args(Forecast))}, got {forecast!r}")
        if forecast:
            provenance["forecast"] = forecast
        if self.level != "branch":
            provenance["level"] = self.level
        return StepMask(
            compute=compute,
            forecast=~compute if forecast else None,
            sites=self.graph.names if sites is None else sites,
            timesteps=self.timesteps,
            scheduler=self.scheduler,
            graph=self.whole.fingerprint,
            provenance={**self.provenance, **provenance},
        )


def check_interval(interval: int, name: str = "interval") -> None:
    """Raise unless `interval` is a whole number of steps, at least 1."""
    if not isinstance(interval, int) or interval < 1:
        raise StepMaskError(f"{name} must be a whole number of steps, at least 1, got {interval!r}")


def check_steps(steps: Iterable[int], num_rows: int, name: str) -> np.ndarray:
    """(T,) bool with the given steps true; raises unless they are rows of a run of `num_rows`."""
    given = list(steps) if isinstance(steps, Iterable) and not isinstance(steps, str) else None
    if given is None or not all(
        isinstance(step, int | np.integer) and not isinstance(step, bool) and 0 <= step < num_rows for step in given
    ):
        raise StepMaskError(f"{name} must be steps between 0 and {num_rows - 1}, got {steps!r}")
    table = np.zeros(num_rows, dtype=bool)
    table[[int(step) for step in given]] = True
    return table


def inputs_of_file(
    graph_or_pipe: Any,
    timesteps: int | Iterable[float] | None,
    num_rows: int,
    source: str,
    level: Level = "branch",
) -> ScheduleInputs:
    """Graph, timesteps and identity for a schedule of `num_rows` steps from a file.

    Raises:
        StepMaskError: The run has another number of steps.
    """
    if timesteps is None:
        if isinstance(graph_or_pipe, BlockGraph):
            raise StepMaskError(
                f"{source} has {num_rows} steps but not their timesteps: with a graph give scheduler.timesteps.tolist()"
            )
        timesteps = num_rows
    inputs = ScheduleInputs(graph_or_pipe, timesteps, level)
    if len(inputs.timesteps) != num_rows:
        raise StepMaskError(
            f"{source} has {num_rows} steps, the run has {len(inputs.timesteps)}: give the number of steps, and a "
            "scheduler, that the schedule was made for"
        )
    return inputs
