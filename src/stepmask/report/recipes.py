"""Studies of a recipe and of a frontier of recipes, from what their files say."""

from __future__ import annotations

from stepmask.frontier import WAYS, Frontier
from stepmask.recipe import GUIDANCE, Recipe
from stepmask.report.content import Axis, Entry, Facts, Method, Study, facts_of
from stepmask.report.mask_map import mask_map
from stepmask.report.masks import Mapped

DISTANCE = Axis("psnr", "PSNR against the converged run", "quality", "db")
COLOURS = (
    ("#6e6e6e", "#a8a8a8"), ("#0b4f8a", "#6db1ee"), ("#c4501e", "#f0906a"), ("#2e9c84", "#5fd0b6"),
    ("#8f5aa8", "#c79be0"), ("#0072b2", "#5ab4f0"),
)  # fmt: skip
"""Of each way, on a light and on a dark ground; the last is of all levers together."""


def recipe_study(recipe: Recipe, mapped: Mapped = mask_map) -> Study:
    """One recipe: what it says step by step, the map of its mask, and where it comes from."""
    made = None if recipe.mask is None else mapped(recipe.mask)
    entry = Entry("recipe", f"{recipe.num_inference_steps} steps", {}, map=made)
    return Study(str(recipe), [entry], facts=_facts(recipe) + facts_of(recipe.provenance))


def frontier_study(frontier: Frontier, mapped: Mapped = mask_map) -> Study:
    """All points of a frontier: quality over work, way by way, and the map of each that has a mask."""
    work = Axis("work", f"{frontier.unit}, of the denoiser", "cost", "number", "lower")
    ways = [way for way in WAYS if frontier.way(way)]
    methods = [Method(way, *COLOURS[WAYS.index(way)], ours=way == ways[-1]) for way in ways]
    entries = [
        Entry(
            point.way,
            f"{point.budget:g}, in {point.recipe.num_inference_steps} steps",
            {work.key: point.work, DISTANCE.key: point.psnr},
            point.confidence,
            None if point.recipe.mask is None else mapped(point.recipe.mask),
            facts=_facts(point.recipe),
        )
        for way in ways
        for point in frontier.way(way)
    ]
    name = f"{len(entries)} recipes, for {frontier.budgets[0]:g} to {frontier.budgets[-1]:g} {frontier.unit}"
    return Study(name, entries, methods, [work, DISTANCE], facts=facts_of(frontier.facts))


def _facts(recipe: Recipe) -> Facts:
    facts = [("recipe", str(recipe))]
    for name in ("timesteps", "sigmas"):
        values = getattr(recipe, name)
        if values is not None:
            facts.append((name, ", ".join(f"{value:.4g}" for value in values)))
    if recipe.resolution is not None:
        low = recipe.resolution
        facts.append(("resolution", f"{low.factor:g} of each side until step {low.switch}, then full ({low.way})"))
    if recipe.guidance is not None:
        meaning = "; ".join(f"{letter}: {GUIDANCE[letter]}" for letter in sorted(set(recipe.guidance)))
        facts.append(("guidance, step by step", f"{recipe.guidance} ({meaning})"))
    facts.append(("scheduler", str((recipe.scheduler or {}).get("class", "any"))))
    return facts
