"""Plans whose held values are scaled and shifted per channel before they are handed out, as block caching has it.

Mask files know nothing of it: `rivals.calibrated.scale_shift` fits such a plan to a mask and a model, and it
is applied like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from stepmask.liveness import Plan, State
from stepmask.runtime.cache import Cache
from stepmask.runtime.channels import along_channels
from stepmask.runtime.policies import RunPlan
from stepmask.values import Value, put_together, take_apart


class Affine(NamedTuple):
    """What is done to a tensor: ``scale * value + shift``, both (C,)."""

    scale: Tensor
    shift: Tensor

    def __call__(self, value: Tensor) -> Tensor:
        """The tensor, scaled and shifted along its channels."""
        return along_channels(self.scale, value) * value + along_channels(self.shift, value)


def corrected(value: Value, by: list[Affine]) -> Value:
    """A value with each of its tensors scaled and shifted."""
    parts, layout = take_apart(value)
    return put_together([affine(part) for affine, part in zip(by, parts, strict=True)], layout)


class RunScaledPlan(RunPlan):
    """Executes a `ScaledPlan`."""

    def __init__(self, plan: ScaledPlan) -> None:
        super().__init__(plan)
        self._corrections = plan.corrections

    def __call__(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """Run the plan, with held values scaled and shifted."""
        feature = super().__call__(step, site, compute, cache)
        by = self._corrections.get((step, site))
        return feature if by is None else corrected(feature, by)


@dataclass(frozen=True, eq=False, repr=False)
class ScaledPlan(Plan):
    """A plan with corrections.

    Attributes:
        corrections: By row and site of cells that reuse; one `Affine` for each tensor in the value.
    """

    policy: ClassVar[type[RunPlan]] = RunScaledPlan
    corrections: Mapping[tuple[int, int], list[Affine]] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, corrections: Mapping[tuple[int, int], list[Affine]]) -> ScaledPlan:
        """A plan with these corrections."""
        return cls(**{field.name: getattr(plan, field.name) for field in fields(Plan)}, corrections=corrections)

    def from_row(self, start: int) -> Plan:
        """The plan of a run that starts late; corrections of values from before its start are left out."""
        if start == 0:
            return self
        plan = super().from_row(start)
        kept = {
            (row - start, site): affine
            for (row, site), affine in self.corrections.items()
            if self._computed_at(row, site) >= start and plan.states[row - start, site] == State.reuse
        }
        return ScaledPlan.of(plan, kept)

    def _computed_at(self, row: int, site: int) -> int:
        return int(np.flatnonzero(self.states[:row, site] == State.compute)[-1])
