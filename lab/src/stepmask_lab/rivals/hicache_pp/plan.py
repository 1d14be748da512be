"""The forecasts of the package hicache-pp (1.3.0): exponentials, Hermite polynomials, or what fits the past better.

Nothing of it is re-implemented: at a step that does not compute, the package is handed the values of the last computed
steps, and its forecast is handed out. It is an extra, ``pip install 'stepmask-lab[rivals]'``.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.runtime.cache import Cache
from stepmask.runtime.policies import RunPlan
from stepmask.values import Value, put_together, take_apart
from stepmask_lab.rivals.predicted_plan import PredictedPlan, RunPredicted, predicted

PACKAGE = "hicache_pp"
HISTORY = 6
"""Values that its exponentials are fitted to, as its quick start has it."""

Basis = Literal["dmd", "hermite", "auto"]


class RunHicache(RunPredicted):
    """Executes a `HicachePlan`."""

    def __init__(self, plan: HicachePlan) -> None:
        super().__init__(plan)
        self._windows: WeakKeyDictionary[Cache, dict[int, list[dict]]] = WeakKeyDictionary()

    def forecast(self, step: int, site: int, cache: Cache) -> Value:
        """What the package makes of the values that are known."""
        if self.plan.table is None:
            return super().forecast(step, site, cache)
        import hicache_pp

        forecast = {
            "dmd": hicache_pp.dmd_forecast_state,
            "hermite": hicache_pp.hicache_forecast,
            "auto": hicache_pp.auto_forecast_state,
        }[self.plan.basis]
        known = cache.known(site)[:HISTORY]
        windows = self._windows.setdefault(cache, {})
        _, layout = take_apart(known[0][1])
        if site not in windows or windows[site][0]["activated_steps"][-1] != known[0][0]:
            parts = zip(*(take_apart(value)[0] for _, value in reversed(known)), strict=True)
            steps = [at for at, _ in reversed(known)]
            windows[site] = [self._window(steps, values) for values in parts]  # a fit serves all steps until the next
        for state in windows[site]:
            state["step"] = step
        return put_together([forecast(state) for state in windows[site]], layout)

    def _window(self, steps: list[int], values: tuple[Tensor, ...]) -> dict[str, Any]:
        import hicache_pp

        state = hicache_pp.hicache_init(
            self.plan.num_rows, max_order=self.plan.order, backend=self.plan.basis, history=HISTORY
        )
        for at, value in zip(steps, values, strict=True):
            state["activated_steps"].append(at)
            hicache_pp.hicache_update_derivatives(state, value)
            hicache_pp.dmd_update_snapshots(state, value)
        return state


@dataclass(frozen=True, eq=False, repr=False)
class HicachePlan(PredictedPlan):
    """A plan whose forecasts are the package's; its table says only which values they read.

    Attributes:
        basis: ``"dmd"`` for exponentials, ``"hermite"``, or ``"auto"``.
        order: Of Hermite polynomials.
    """

    policy: ClassVar[type[RunPlan]] = RunHicache
    basis: Basis = "dmd"
    order: int = 2


def hicache_pp_plan(pipe: Any, mask: StepMask, basis: Basis = "dmd", order: int = 2) -> HicachePlan:
    """What runs of a mask with key steps, by hicache-pp.

    Taken from the package: all of the forecast. What differs from its quick start: it is handed the value after the
    last block, or of each site of the mask, instead of the guided velocity in the sampling loop; the schedule is the
    mask's.

    Args:
        pipe: As for `stepmask.apply`.
        mask: The key steps, as `taylorseer` makes them.
        basis: As the package calls them.
        order: Of the highest Hermite polynomial.

    Raises:
        StepMaskError: The package is not installed, or has no such basis.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise StepMaskError("this rival needs the package hicache-pp: pip install 'stepmask-lab[rivals]'")
    if basis not in get_args(Basis):
        raise StepMaskError(f"basis must be one of {', '.join(get_args(Basis))}, got {basis!r}")
    computed, num_rows = mask.compute.all(1), mask.num_rows
    count = np.cumsum(computed)
    reads = computed & (count > count[:, None] - HISTORY) & (np.arange(num_rows) < np.arange(num_rows)[:, None])
    table = np.where(computed[:, None], np.eye(num_rows), reads)
    plan = predicted(pipe, mask, table)
    return replace(HicachePlan(**vars(plan)), basis=basis, order=order)
