"""Table: what every cell does, with the gains of its forecasts; and Candidate, a table that was measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stepmask.graph import BlockGraph
from stepmask.liveness import Plan, State, full_gains, make_plan
from stepmask.mask import Action, StepMask
from stepmask.mask_tables import Channels, Weights
from stepmask.runtime.task import Task


def settle(mask: StepMask, graph: BlockGraph) -> StepMask:
    """The same plan from a mask that says compute only where the plan calls, all sites named.

    What is dead or would be computed again unchanged holds instead, unless it runs for what lies within it; what is not
    read forecasts nothing.
    """
    plan = make_plan(mask, graph)
    actions = np.select([plan.called, plan.states == State.forecast], [Action.compute, Action.linear])
    actions[0] = Action.compute
    wide = StepMask(compute=np.ones(actions.shape, bool), sites=graph.names, timesteps=mask.timesteps)
    return wide.with_actions(
        actions,
        gains=full_gains(mask, graph),
        channel_gains=mask.channel_gains,
        weights=mask.weights,
        scheduler=mask.scheduler,
        graph=graph.fingerprint,
        provenance=mask.provenance,
    )


@dataclass(frozen=True, eq=False)
class Table:
    """A mask over all sites, settled, without identity.

    Attributes:
        actions: (T, B) of `Action`.
        gains: (T, B) as `StepMask` has them; None where all are 1.
        channel_gains: By site, as `StepMask` has them; None where all are 1.
        weights: By site, as `StepMask` has them; None where there are none.
    """

    actions: np.ndarray
    gains: np.ndarray | None = None
    channel_gains: Channels | None = None
    weights: Weights | None = None

    @classmethod
    def of(cls, mask: StepMask, graph: BlockGraph) -> Table:
        """What a mask comes to."""
        settled = settle(mask, graph)
        return cls(settled.actions, **settled.forecasting())

    @cached_property
    def digest(self) -> str:
        """Tells tables apart, in every process."""
        content = self.actions.tobytes() + (b"" if self.gains is None else self.gains.tobytes())
        for site, vector in sorted((self.channel_gains or {}).items()):
            content += site.encode() + vector.tobytes()
        for site, table in sorted((self.weights or {}).items()):
            content += site.encode() + table.tobytes()
        return hashlib.sha256(content).hexdigest()[:24]

    @property
    def has_gains(self) -> bool:
        """Whether any forecast is more or less than the plain line."""
        return any(part is not None for part in self.forecasting.values())

    @property
    def forecasting(self) -> dict[str, Any]:
        """How its forecasts extrapolate, as `StepMask.with_actions` takes it."""
        return {"gains": self.gains, "channel_gains": self.channel_gains, "weights": self.weights}

    def mask(self, task: Task) -> StepMask:
        """The table as a mask on the rows of a task."""
        blank = StepMask(compute=np.ones(task.shape, dtype=bool), sites=task.graph.names, timesteps=task.timesteps)
        return blank.with_actions(self.actions, **self.forecasting)

    def plan(self, task: Task) -> Plan:
        """What a task runs under the table."""
        return make_plan(self.mask(task), task.graph)

    def switched(self, actions: np.ndarray, task: Task) -> Table:
        """Another table of actions; what forecast before and does so still keeps its gain, and sites keep theirs."""
        both = (self.actions == Action.linear) & (actions == Action.linear)
        gains = None if self.gains is None else np.where(both, self.gains, 1.0)
        return Table.of(Table(actions, gains, self.channel_gains, self.weights).mask(task), task.graph)


@dataclass(frozen=True)
class Candidate:
    """A table and what it was measured to give."""

    table: Table
    cost: float
    psnrs: np.ndarray
    """PSNR in dB on the validation noise, per image; with an objective the ratio of its size to its error, in dB."""
    made_by: str
    fitted: bool = False
    """Whether its gains were learned by this search."""

    @property
    def psnr(self) -> float:
        """The mean over the images."""
        return float(self.psnrs.mean())

    @property
    def actions(self) -> np.ndarray:
        """(T, B) of `Action`."""
        return self.table.actions
