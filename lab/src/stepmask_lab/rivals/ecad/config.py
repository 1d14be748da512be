"""Ecad: the options of the genetic search."""

from __future__ import annotations

from dataclasses import dataclass

from stepmask.learning.configuration import Configuration, option


@dataclass(frozen=True, kw_only=True)
class Ecad(Configuration):
    """How a population of masks evolves."""

    population: int = option(24, "Masks in each generation.", low=4, high=10**5, unit="masks")
    generations: int = option(40, "Generations after the first.", low=0, high=10**6, unit="generations")
    crossover_rate: float = option(
        0.9, "Chance that two parents are crossed, at four points; else the child is one of them.", low=0.0, high=1.0
    )
    mutation_rate: float = option(0.05, "Chance of each cell of a child to flip.", low=0.0, high=1.0)
    num_calibration: int = option(
        4, "Images, always the same, that every mask is judged by.", low=1, high=10**4, unit="images"
    )
    num_checked: int = option(
        16, "Images, none of those, on which the result is measured.", low=1, high=10**4, unit="images"
    )
