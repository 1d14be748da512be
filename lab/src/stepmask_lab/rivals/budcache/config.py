"""BudCache: the options of the search."""

from __future__ import annotations

from dataclasses import dataclass

from stepmask.learning.configuration import Configuration, option


@dataclass(frozen=True, kw_only=True)
class BudCache(Configuration):
    """How key steps are moved."""

    restarts: int = option(1, "Searches from other random key steps.", low=1, high=10**4, unit="searches")
    annealing: int = option(200, "Moves of each annealing.", low=0, high=10**6, unit="moves")
    hottest: float = option(0.05, "Temperature at its beginning, in mean square of latents.", low=1e-9, high=1e3)
    coldest: float = option(1e-5, "Temperature at its end.", low=1e-9, high=1e3)
    climbing: int = option(20, "Most steps of each hill climbing.", low=0, high=10**6, unit="steps")
    num_calibration: int = option(
        4, "Images, always the same, that every schedule is judged by.", low=1, high=10**4, unit="images"
    )
