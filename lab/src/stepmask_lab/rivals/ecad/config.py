"""GeneticConfig: every knob of the genetic search."""

from __future__ import annotations

from dataclasses import dataclass

from stepmask.learning._arguments import Knobs, check_ranges

_RANGES = {
    "population": (4, 10**5),
    "generations": (0, 10**6),
    "crossover_rate": (0.0, 1.0),
    "mutation_rate": (0.0, 1.0),
    "num_calibration": (1, 10**4),
    "num_checked": (1, 10**4),
}
_WHOLE = ("population", "generations", "num_calibration", "num_checked")


@dataclass(frozen=True, kw_only=True)
class GeneticConfig(Knobs):
    """How a population of masks evolves.

    Attributes:
        population: Masks in each generation.
        generations: After the first.
        crossover_rate: Chance that two parents are crossed, at four points; else the child is one of them.
        mutation_rate: Chance of each cell of a child to flip.
        num_calibration: Images, always the same, that every mask is judged by.
        num_checked: Images, none of those, on which the result is measured.
    """

    population: int = 24
    generations: int = 40
    crossover_rate: float = 0.9
    mutation_rate: float = 0.05
    num_calibration: int = 4
    num_checked: int = 16

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES, _WHOLE)
