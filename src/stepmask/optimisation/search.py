"""Looks for the best recipe at each budget, lever by lever and with all levers together.

Each lever alone spends the budget as well as it can; together they share it. What is chosen is chosen on other images
than what it learned on, and reported on others again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from stepmask.errors import StepMaskError, TargetError
from stepmask.family import MaskFamily
from stepmask.frontier import CHEAPER, FEWER_STEPS, GUIDANCE, RESOLUTION, TIMESTEPS, TOGETHER, WAYS, Point
from stepmask.optimisation.closed_form import optimised_timesteps
from stepmask.optimisation.judge import Judge
from stepmask.optimisation.learned_timesteps import learned_timesteps
from stepmask.recipe import FORECAST, FULL, HELD, OFF, Recipe, Resolution
from stepmask.recipe import WAYS as SWITCHES
from stepmask.runtime.given_run import takes_timesteps
from stepmask.runtime.levels import KNOWN

MORE_STEPS = (1.0, 1.5, 2.0, 3.0)
"""Numbers of steps that are tried for a budget, in multiples of it."""
FACTORS = (0.5, 0.75)
"""Low resolutions."""
SHARES = (0.25, 0.4, 0.6)
"""Where the resolution switches, and where guidance ends, when levers come together: at such shares of the steps."""
FINALISTS = 4
"""So many of the recipes in which levers come together are measured on all images."""
MOVES = 32
"""So many changes of guidance at single steps are tried, of the best that was found."""
ENOUGH_USED = 0.75
"""What takes less than this share of a budget is not tried for it."""

Learn = Callable[[int, Sequence[float] | None, Sequence[float]], MaskFamily]
"""Learns masks: gets the number of steps, their timesteps, and shares of the full run's work."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much a search tries.

    Attributes:
        iterations: Steps of Gauss and Newton for learned timesteps.
        learned_up_to: Timesteps are learned for runs of at most so many steps; it takes the square of them.
        masks: Whether masks are learned.
    """

    iterations: int = 3
    learned_up_to: int = 16
    masks: bool = True


class Search:
    """Finds the points of a frontier.

    Args:
        judge: Measures recipes.
        pipe: Says what its scheduler takes.
        budgets: Evaluations per image.
        effort: How much is tried.
        learn: Learns masks.
        guided: Whether both halves of guidance run as one call.
        said: Says an amount of work in words.
        tell: Called after each piece of work with what was found.
    """

    def __init__(
        self,
        judge: Judge,
        pipe: Any,
        budgets: Sequence[float],
        effort: Effort,
        learn: Learn,
        guided: bool,
        said: Callable[[float], str],
        tell: Callable[[str], None],
    ) -> None:
        self._judge, self._scheduler, self._effort, self._learn = judge, pipe.scheduler, effort, learn
        self._latent, self._guided = getattr(pipe, "vae", None) is not None, guided
        self._said, self._tell = said, tell
        self.budgets = sorted(budgets)
        self._times: dict[int, tuple[float, ...] | None] = {}
        self._families: dict[int, MaskFamily | None] = {}

    @property
    def num_pieces(self) -> int:
        """So often `tell` is called, at most."""
        return len(self.all_steps) + len(self.mask_steps) + len(self.budgets) * len(WAYS)

    @property
    def all_steps(self) -> list[int]:
        """All numbers of steps that are tried."""
        return sorted({steps for budget in self.budgets for steps in self.steps(budget)})

    @property
    def mask_steps(self) -> list[int]:
        """Those that masks are learned for."""
        if not self._effort.masks:
            return []
        return [steps for steps in self.all_steps if any(self._may_mask(steps, budget) for budget in self.budgets)]

    def steps(self, budget: float) -> list[int]:
        """Numbers of steps that are tried for a budget."""
        trained = self._scheduler.config.get("num_train_timesteps") or 1000
        return sorted({min(max(1, int(budget * more + 1e-9)), trained) for more in MORE_STEPS})

    def _may_mask(self, steps: int, budget: float) -> bool:
        return steps in self.steps(budget) and budget < steps

    def points(self) -> Iterator[Point]:
        """The best recipe of each way at each budget, reported on held-back images."""
        for budget in self.budgets:
            singles = {
                FEWER_STEPS: [Recipe(num_inference_steps=self.steps(budget)[0])],
                TIMESTEPS: [self._base(self.steps(budget)[0])],
                CHEAPER: list(self._cheaper(budget)),
                RESOLUTION: list(self._mixed(budget)),
                GUIDANCE: list(self._guidance(budget)),
            }
            best: dict[str, Recipe] = {}
            for way, recipes in singles.items():
                if way == TIMESTEPS and recipes[0].is_plain:
                    recipes = []
                if recipes:
                    best[way] = self._learned_guidance(self._best(recipes), budget)
                    yield self._point(way, budget, best[way])
                else:
                    self._tell(f"{way}: nothing to try at {self._said(budget)}")
            joined = self._best([*best.values(), *self._finalists(list(self._together(budget, best)))])
            best[TOGETHER] = joined if joined in best.values() else self._learned_guidance(joined, budget)
            yield self._point(TOGETHER, budget, best[TOGETHER])

    def timesteps(self, steps: int) -> tuple[float, ...] | None:
        """The best timesteps for a number of steps; None for the scheduler's own."""
        if steps not in self._times:
            self._times[steps], said = self._found_timesteps(steps)
            self._tell(f"{steps} steps: {said}")
        return self._times[steps]

    def _found_timesteps(self, steps: int) -> tuple[tuple[float, ...] | None, str]:
        if not takes_timesteps(self._scheduler):
            return None, "the scheduler sets its timesteps itself"
        own = tuple(self._judge.task(steps).whole_timesteps)
        closed = optimised_timesteps(self._scheduler, steps, latent=self._latent)
        found = {"its own": None, "by the schedule": closed}
        if len(own) != steps:
            return None, "the scheduler makes more rows than steps"
        if 1 < steps <= self._effort.learned_up_to:
            start = self._named_best(steps, found)
            found["learned"] = self._learned(steps, own if found[start] is None else found[start])
        name = self._named_best(steps, found)
        return found[name], f"timesteps {name}"

    def _named_best(self, steps: int, found: dict[str, tuple[float, ...] | None]) -> str:
        return max(found, key=lambda name: self._score(Recipe(num_inference_steps=steps, timesteps=found[name])))

    def _learned(self, steps: int, start: Sequence[float]) -> tuple[float, ...]:
        judge, images = self._judge, self._judge.learning
        key, values = f"timesteps.{steps}", judge.kept
        if key not in values:

            def run(times: Sequence[float]) -> Any:
                return judge.latents(Recipe(num_inference_steps=steps, timesteps=times), images)

            whole = all(float(time).is_integer() for time in start)
            reference = judge.reference(images, latent=True)
            found = learned_timesteps(run, start, reference, whole=whole, iterations=self._effort.iterations)
            judge.keep(key, list(found))
        return tuple(values[key])

    def family(self, steps: int) -> MaskFamily | None:
        """Masks for a number of steps, at its best timesteps; None where none can cost so little."""
        if steps not in self._families:
            shares = sorted({budget / steps for budget in self.budgets if self._may_mask(steps, budget)}, reverse=True)
            found = None
            while found is None and shares:
                try:
                    found = self._learn(steps, self.timesteps(steps), shares)
                except TargetError:
                    shares = shares[:-1]
            self._families[steps] = found
            self._tell(f"{steps} steps: {len(found) if found else 'no'} masks")
        return self._families[steps]

    def _base(self, steps: int) -> Recipe:
        return Recipe(num_inference_steps=steps, timesteps=self.timesteps(steps))

    def _cheaper(self, budget: float) -> Iterator[Recipe]:
        for steps in self.steps(budget):
            if steps > budget:
                yield from self._masked(self._base(steps), budget)

    def _masked(self, recipe: Recipe, budget: float) -> Iterator[Recipe]:
        """The recipe with the best mask that keeps it within the budget."""
        family = self.family(recipe.num_inference_steps) if self._effort.masks else None
        for member in family or ():
            mask = replace(member.mask, scores=None)
            masked = replace(recipe, mask=mask, scheduler=None)
            if self._judge.work(masked) <= budget:
                yield masked
                return

    def _mixed(self, budget: float) -> Iterator[Recipe]:
        if type(self._scheduler).__name__ not in KNOWN:
            return
        for steps in self.steps(budget):
            for factor in FACTORS:
                for way in SWITCHES:
                    yield from self._switched(self._base(steps), factor, way, budget)

    def _switched(self, recipe: Recipe, factor: float, way: str, budget: float) -> Iterator[Recipe]:
        """The recipe with as few steps of low resolution as keep it within the budget, one at least."""
        for switch in range(1, recipe.num_inference_steps):
            switched = replace(recipe, resolution=Resolution(factor=factor, switch=switch, way=way))
            try:
                work = self._judge.work(switched)
            except StepMaskError:  # no smaller, or not for such calls
                return
            if work <= budget:
                yield switched
                return

    def _guidance(self, budget: float) -> Iterator[Recipe]:
        if not self._guided:
            return
        for steps in self.steps(budget):
            full = int(2 * budget - steps + 1e-9)  # steps in which both halves may compute
            if 1 <= full < steps:
                recipes = (replace(self._base(steps), guidance=letters) for letters in self._letters(steps, full))
                yield from (recipe for recipe in recipes if self._judge.work(recipe) <= budget * (1 + 1e-9))

    @staticmethod
    def _letters(steps: int, full: int) -> Iterator[str]:
        """Guidance with so many steps in which both halves compute: dropped after them, or held between them."""
        yield FULL * full + OFF * (steps - full)
        spread = {round(i * (steps - 1) / max(1, full - 1)) for i in range(full)}
        for letter in (HELD, FORECAST):
            yield FULL + "".join(FULL if step in spread else letter for step in range(1, steps))

    def _learned_guidance(self, recipe: Recipe, budget: float) -> Recipe:
        """The recipe with the guidance of single steps changed for as long as that helps; itself where it has none."""
        best, tried, idle = recipe, {recipe.guidance}, 0
        moves = guidance_moves(recipe.num_inference_steps) if recipe.guidance else []
        while moves and idle < len(moves) and len(tried) <= MOVES:
            move = moves[idle]
            idle += 1
            letters = move(best.guidance)
            if letters in tried:
                continue
            tried.add(letters)
            try:
                moved = replace(best, guidance=letters)
            except StepMaskError:  # guidance that would be held over the switch of the resolution
                continue
            if self._judge.work(moved) <= budget and self._score(moved) > self._score(best):
                best, moves, idle = moved, moves[idle:] + moves[:idle], 0
        return best

    def _together(self, budget: float, best: dict[str, Recipe]) -> Iterator[Recipe]:
        """Recipes in which two levers or more share a budget."""
        low = best[RESOLUTION].resolution if RESOLUTION in best else None
        for steps in self.steps(budget):
            base = self._base(steps)
            lows = [None] if low is None else [None, *(_at_share(low, steps, share) for share in SHARES)]
            letters = [None]
            if self._guided:
                letters += [text for share in SHARES for text in self._letters(steps, max(2, round(steps * share)))]
            for resolution in dict.fromkeys(lows):
                for text in letters:
                    try:
                        recipe = replace(base, resolution=resolution, guidance=text)
                    except StepMaskError:  # guidance that would be held over the switch
                        continue
                    tried = [recipe, *(self._masked(recipe, budget) if steps > budget else ())]
                    yield from (one for one in tried if ENOUGH_USED * budget <= self._judge.work(one) <= budget)

    def _finalists(self, recipes: list[Recipe]) -> list[Recipe]:
        """Those that are best on a half of the images."""
        first, count = self._judge.choosing
        images = first, max(1, count // 2)
        return sorted(recipes, key=lambda recipe: -self._judge.psnrs(recipe, images).mean())[:FINALISTS]

    def _best(self, recipes: Sequence[Recipe]) -> Recipe:
        return max(recipes, key=self._score)

    def _score(self, recipe: Recipe) -> float:
        return float(self._judge.psnrs(recipe, self._judge.choosing).mean())

    def _point(self, way: str, budget: float, recipe: Recipe) -> Point:
        psnrs = self._judge.psnrs(recipe, self._judge.held_back)
        error = float(psnrs.std(ddof=1) / len(psnrs) ** 0.5) if len(psnrs) > 1 else 0.0
        self._tell(f"{self._said(budget)}, {way}: {psnrs.mean():.1f} dB")
        return Point(way, budget, self._judge.work(recipe), float(psnrs.mean()), error, len(psnrs), recipe)


def guidance_moves(steps: int) -> list[Callable[[str], str]]:
    """Ways to change guidance at one step or two, the number of steps in which both halves compute left as it is.

    A step exchanges its letter with the next, or one that does not compute both halves gets another letter.
    """

    def exchanged(step: int, letters: str) -> str:
        return letters[:step] + letters[step + 1] + letters[step] + letters[step + 2 :]

    def changed(step: int, letter: str, letters: str) -> str:
        return letters if letters[step] == FULL else letters[:step] + letter + letters[step + 1 :]

    found: list[Callable[[str], str]] = []
    for step in range(1, steps):
        found += [partial(exchanged, step)] if step + 1 < steps else []
        found += [partial(changed, step, letter) for letter in (HELD, FORECAST, OFF)]
    return found


def _at_share(low: Resolution, steps: int, share: float) -> Resolution:
    return replace(low, switch=min(max(1, round(steps * share)), steps - 1))
