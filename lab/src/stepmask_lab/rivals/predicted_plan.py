"""Plans whose forecasts are weighted sums of any values that a site has computed so far, with factors for each row.

Mask files know sums of four values at most, in Newton's form. Such a plan is applied like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from stepmask.errors import StepMaskError
from stepmask.inspection.describe import describe
from stepmask.liveness import Plan, State, make_plan
from stepmask.mask import StepMask
from stepmask.runtime.cache import Cache
from stepmask.runtime.policies import RunPlan
from stepmask.values import Value, put_together, take_apart


class RunPredicted(RunPlan):
    """Executes a `PredictedPlan`."""

    def forecast(self, step: int, site: int, cache: Cache) -> Value:
        """The weighted sum of what is known."""
        if self.plan.table is None:
            return super().forecast(step, site, cache)
        read = [(self.plan.table[step, at], value) for at, value in cache.known(site) if self.plan.table[step, at]]
        factors = [float(factor) for factor, _ in read]
        parts, (layout, *_) = zip(*(take_apart(value) for _, value in read), strict=True)
        sums = [sum(f * part for f, part in zip(factors, same, strict=True)) for same in zip(*parts, strict=True)]
        return put_together(sums, layout)


@dataclass(frozen=True, eq=False, repr=False)
class PredictedPlan(Plan):
    """A plan that predicts by a table.

    Attributes:
        table: (T, T): what a cell of row t that does not compute makes of the value computed at row r is ``[t, r]``
            times it; None for lines through two values.
    """

    policy: ClassVar[type[RunPlan]] = RunPredicted
    table: np.ndarray | None = None

    @classmethod
    def of(cls, plan: Plan, table: np.ndarray | None) -> PredictedPlan:
        """A plan of a mask that forecasts, with this table in place of its lines.

        Raises:
            StepMaskError: The table reads what is not known, or nothing at all.
        """
        given = {field.name: getattr(plan, field.name) for field in fields(Plan)}
        if table is None:
            return cls(**given)
        asked = np.isin(plan.states, (State.reuse, State.forecast))
        for site in np.flatnonzero(asked.any(0)):
            computed = plan.compute[:, site]
            for row in np.flatnonzero(asked[:, site]):
                read = np.flatnonzero(table[row])
                if not len(read) or read[-1] >= row or not computed[read].all():
                    raise StepMaskError(
                        f"a table of predictions must read rows that {plan.sites[site]} has computed before, row {row} "
                        f"reads {read.tolist()}"
                    )
        states = np.where(asked, State.forecast, plan.states).astype(np.uint8)
        return cls(**given | {"states": states, "keep": _kept(plan.compute, asked, table)}, table=table)

    def from_row(self, start: int) -> Plan:
        """The plan of a run that starts late: it extrapolates by lines, since its first values are other ones."""
        return self if start == 0 else PredictedPlan.of(super().from_row(start), None)


def predicted(pipe: Any, mask: StepMask, table: np.ndarray) -> PredictedPlan:
    """The plan of a mask for a pipeline, with a table in place of its lines.

    Args:
        pipe: As for `stepmask.apply`.
        mask: Its cells that do not compute forecast.
        table: (T, T), as `PredictedPlan` has it.
    """
    return PredictedPlan.of(make_plan(mask, describe(pipe)), table)


def with_facts(plan: PredictedPlan, **facts: Any) -> PredictedPlan:
    """The same plan, whose mask says more of where it comes from."""
    mask = replace(plan.mask, provenance={**plan.mask.provenance, **facts})
    return replace(plan, mask=mask)


def _kept(computed: np.ndarray, asked: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(T, B) how many of the values known after each row are read later, the newest first."""
    num_rows = len(computed)
    oldest = np.where(table.any(1), (table != 0).argmax(1), num_rows)
    kept = np.zeros(computed.shape, dtype=np.uint8)
    for site in np.flatnonzero(asked.any(0)):
        count = np.cumsum(computed[:, site])
        reads = np.where(asked[:, site], oldest, num_rows)
        for row in range(num_rows - 1):
            first = reads[row + 1 :].min()
            if first <= row:
                kept[row, site] = count[row] - (count[first - 1] if first else 0)
    kept.flags.writeable = False
    return kept
