"""A fit of gains on two images of one pipeline, and the error that it should report, by plain runs."""

from collections.abc import Callable
from typing import Any

import stepmask
from stepmask import StepMask, describe, make_plan, measure_cost
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import EndToEnd
from stepmask.learning.budget import Budget
from stepmask.learning.end_to_end.gradients.gains import GainFit
from stepmask.learning.end_to_end.tables import settle
from stepmask.learning.interception import frozen
from stepmask.runtime.noise import Noise


class Fitting:
    """A fit on two images of one pipeline."""

    def __init__(
        self,
        make: Callable[[], Any],
        mask: StepMask,
        iterations: int,
        *,
        max_cache_bytes: int | None = None,
        **options: Any,
    ) -> None:
        self.pipe = make()
        self.budget = Budget(describe(self.pipe), measure_cost(self.pipe), max_cache_bytes=max_cache_bytes)
        self.noise = Noise(self.pipe, mask.num_rows, 0)
        self.before = settle(mask, self.budget.graph)
        self.fit = GainFit(self.before, self.budget, EndToEnd(graph_bytes=0, **options), iterations)
        with frozen(denoiser_of(self.pipe)):
            self.target = self.noise.latents(0, 2)

    def step(self) -> float:
        return self.fit.step(self.pipe, [(lambda: self.noise.latents(0, 2), self.target)])

    def error_db(self, mask: StepMask) -> float:
        """As `step` reports it, by plain runs."""
        with stepmask.apply(self.pipe, make_plan(mask, self.budget.graph)):
            error = self.noise.latents(0, 2) - self.target
        return float(10 * error.flatten(1).double().square().mean(1).log10().mean())
