"""Frontier: what each way to spend a budget reaches, and the recipes that do; in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stepmask.errors import StepMaskError, TargetError
from stepmask.files import read_versioned, said_of, write_json
from stepmask.hub import Shared
from stepmask.recipe import Recipe
from stepmask.recipe_file import finite_numbers

if TYPE_CHECKING:
    from rich.table import Table

FORMAT, FORMAT_VERSION = "stepmask-frontier", 1
MOST_POINTS = 1_000

FEWER_STEPS, TIMESTEPS, CHEAPER, RESOLUTION, GUIDANCE, TOGETHER = WAYS = (
    "fewer steps", "optimised timesteps", "cheaper steps", "mixed resolution", "guidance", "together",
)  # fmt: skip
"""Ways to spend a budget, the plainest first."""

EVALUATIONS, MILLISECONDS = "evaluations", "ms"
UNITS = {
    EVALUATIONS: "evaluations of the denoiser at full resolution, for an image",
    "gmacs": "billions of multiply-accumulates, for an image",
    MILLISECONDS: "milliseconds of the denoiser, for a batch",
}
"""What work is counted in, and what that is."""


@dataclass(frozen=True)
class Point:
    """What a recipe reaches.

    Attributes:
        way: One of `WAYS`.
        budget: Work that was allowed, in the frontier's unit.
        work: What the recipe takes.
        psnr: Mean PSNR in dB to the converged run, on held-back noise.
        standard_error: Of that mean.
        images: On so many images.
        recipe: The recipe.
    """

    way: str
    budget: float
    work: float
    psnr: float
    standard_error: float
    images: int
    recipe: Recipe

    @property
    def confidence(self) -> tuple[float, float]:
        """The 95% interval of the mean, in dB."""
        return self.psnr - 1.96 * self.standard_error, self.psnr + 1.96 * self.standard_error

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in _NUMBERS} | {"way": self.way, "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, content: Any) -> Point:
        """The inverse."""
        if content["way"] not in WAYS:
            raise StepMaskError(f"there is no way {content['way']!r:.80}")
        numbers = dict(zip(_NUMBERS, finite_numbers("a point", [content[name] for name in _NUMBERS]), strict=True))
        numbers["images"] = int(numbers["images"])
        return cls(way=content["way"], recipe=Recipe.from_dict(content["recipe"]), **numbers)


_NUMBERS = ("budget", "work", "psnr", "standard_error", "images")


@dataclass(frozen=True)
class Frontier(Shared):
    """The best recipe of each way at each budget.

    Attributes:
        points: All of them.
        facts: How they were found, as JSON values: the converged run among them.
    """

    kind: ClassVar[str] = "frontier"
    hub_file: ClassVar[str] = "frontier.json"

    points: tuple[Point, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What work is counted in: one of `UNITS`."""
        return self.facts.get("unit", EVALUATIONS)

    def at(self, budget: float) -> Recipe:
        """The recipe with the highest PSNR whose work is at most a budget.

        Raises:
            TargetError: There is none; says what there is.
        """
        return self.best(budget).recipe

    def best(self, budget: float) -> Point:
        """The same with what it reaches; of equals the plainest.

        Raises:
            TargetError: There is none; says what there is.
        """
        if isinstance(budget, bool) or not isinstance(budget, Real) or not budget > 0:
            raise TargetError(f"a budget is a number of {UNITS[self.unit]}, such as 6, got {budget!r:.80}")
        found = [point for point in self.points if point.work <= budget * (1 + 1e-9)]
        if not found:
            raise TargetError(
                f"no recipe takes at most {budget:g} {self.unit}; the cheapest takes {self.least_work:.3g}"
            )
        return max(found, key=lambda point: (point.psnr, -WAYS.index(point.way)))

    @property
    def least_work(self) -> float:
        """What the cheapest recipe takes."""
        return min(point.work for point in self.points)

    def way(self, way: str) -> list[Point]:
        """The points of one way, cheapest first."""
        return sorted((point for point in self.points if point.way == way), key=lambda point: point.budget)

    @property
    def budgets(self) -> list[float]:
        """All budgets that were asked for, smallest first."""
        return sorted({point.budget for point in self.points})

    def table(self) -> Table:
        """PSNR by budget and way, with 95% intervals."""
        from rich.table import Table

        table = Table(self.unit, title="PSNR in dB to the converged run, with 95% intervals", title_justify="left")
        ways = [way for way in WAYS if self.way(way)]
        for way in ways:
            table.add_column(way, justify="right")
        for budget in self.budgets:
            cells = []
            for way in ways:
                found = [point for point in self.way(way) if point.budget == budget]
                cells.append(f"{found[0].psnr:.1f} ± {1.96 * found[0].standard_error:.1f}" if found else "-")
            table.add_row(f"{budget:g}", *cells)
        table.caption = f"on {self.points[0].images} held-back images; {self.facts.get('converged', '')}"
        table.caption_justify = "left"
        return table

    def save(self, path: str | Path) -> None:
        """Write all points with their recipes as one JSON file, whole or not at all."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, "facts": self.facts}
        content["points"] = [point.to_dict() for point in self.points]
        write_json(path, content)

    @classmethod
    def load(cls, path: str | Path) -> Frontier:
        """Read a frontier.

        Raises:
            MaskFileError: It is not there, not JSON, of another format, or says impossible things.
        """
        content = read_versioned(path, "frontier", FORMAT, FORMAT_VERSION, "make it anew")
        with said_of(f"frontier {path}"):
            found = cls(_points(content["points"]), dict(content["facts"]))
            if found.unit not in list(UNITS):  # a file may say anything, also what has no hash
                raise StepMaskError(f"there is no unit {found.unit!r:.80}; work is counted in {', '.join(UNITS)}")
            return found


def _points(listed: Sequence[Any]) -> tuple[Point, ...]:
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_POINTS:
        raise StepMaskError(f'"points" must be a list of 1 to {MOST_POINTS} points')
    return tuple(map(Point.from_dict, listed))
