"""Table: what every cell does, with the gains of its forecasts; and Candidate, a table that was measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stepmask.learning.budget import Budget
from stepmask.liveness import State, full_gains, make_plan
from stepmask.mask import Action, StepMask
from stepmask.mask_tables import Channels


def settle(mask: StepMask, budget: Budget) -> StepMask:
    """The same plan from a mask that says compute only where the plan does, all sites named.

    What is dead or would be computed again unchanged holds instead; what is not read forecasts nothing.
    """
    states = make_plan(mask, budget.graph).states
    actions = np.select([states == State.compute, states == State.forecast], [Action.compute, Action.linear])
    actions[0] = Action.compute
    wide = StepMask(compute=np.ones(actions.shape, bool), sites=budget.graph.names, timesteps=mask.timesteps)
    return wide.with_actions(
        actions,
        gains=full_gains(mask, budget.graph),
        channel_gains=mask.channel_gains,
        scheduler=mask.scheduler,
        graph=budget.graph.fingerprint,
        provenance=mask.provenance,
    )


@dataclass(frozen=True, eq=False)
class Table:
    """A mask over all sites, settled, without identity.

    Attributes:
        actions: (T, B) of `Action`.
        gains: (T, B) as `StepMask` has them; None where all are 1.
        channel_gains: By site, as `StepMask` has them; None where all are 1.
    """

    actions: np.ndarray
    gains: np.ndarray | None = None
    channel_gains: Channels | None = None

    @classmethod
    def of(cls, mask: StepMask, budget: Budget) -> Table:
        """What a mask comes to."""
        settled = settle(mask, budget)
        return cls(settled.actions, settled.gains, settled.channel_gains)

    @cached_property
    def digest(self) -> str:
        """Tells tables apart, in every process."""
        content = self.actions.tobytes() + (b"" if self.gains is None else self.gains.tobytes())
        for site, vector in sorted((self.channel_gains or {}).items()):
            content += site.encode() + vector.tobytes()
        return hashlib.sha256(content).hexdigest()[:24]

    @property
    def has_gains(self) -> bool:
        """Whether any gain is not 1."""
        return self.gains is not None or self.channel_gains is not None

    def mask(self, budget: Budget, timesteps: Sequence[float]) -> StepMask:
        """The table as a mask."""
        blank = StepMask(compute=np.ones(self.actions.shape, dtype=bool), sites=budget.graph.names, timesteps=timesteps)
        return blank.with_actions(self.actions, gains=self.gains, channel_gains=self.channel_gains)

    def switched(self, actions: np.ndarray, budget: Budget, timesteps: Sequence[float]) -> Table:
        """Another table of actions; what forecast before and does so still keeps its gain, and sites keep theirs."""
        both = (self.actions == Action.linear) & (actions == Action.linear)
        gains = None if self.gains is None else np.where(both, self.gains, 1.0)
        return Table.of(Table(actions, gains, self.channel_gains).mask(budget, timesteps), budget)


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
        """The mean."""
        return float(self.psnrs.mean())

    @property
    def actions(self) -> np.ndarray:
        """(T, B) of `Action`."""
        return self.table.actions
