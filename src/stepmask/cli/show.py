"""stepmask show: a mask or a recipe drawn, in the terminal and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.arguments import At, MaskArgument
from stepmask.cli.common.call_arguments import Call, call_kwargs
from stepmask.cli.common.models import load
from stepmask.cli.common.provenance import reached
from stepmask.files import ready_folder
from stepmask.mask import StepMask
from stepmask.recipe import GUIDANCE, Recipe
from stepmask.sources import load_one

if TYPE_CHECKING:
    from rich.table import Table


SAID_ELSEWHERE = {"macs", "cost", "cache_bytes_per_image", "num_inference_steps"}
"""Numbers of a mask's provenance that stand among what it reached, or in its size."""


@app.command()
def show(
    mask: MaskArgument,
    at: At = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write pictures into this folder too: heatmap, full grid, and the scores of a mask that has any.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Show what runs on this model after elimination. Without it, what the mask asks for is shown."
        ),
    ] = None,
    call: Call = None,
) -> None:
    """Draw a mask or a recipe in the terminal, and a mask with --output as pictures."""
    import stepmask
    from stepmask.inspection.describe import description_for
    from stepmask.inspection.first_step import first_step
    from stepmask.inspection.measure_cost import cost_of
    from stepmask.pictures import terminal_map

    found, fraction = load_one(mask, at=at), None
    out = stdout()
    if isinstance(found, Recipe):
        out.print(recipe_table(found))
        out.print(f"{found}", soft_wrap=True)
        if found.mask is None:
            return
    decision = found if isinstance(found, StepMask) else found.mask
    given = call_kwargs(decision.provenance.get("guidance_scale")) | call_kwargs(None, call)
    if output is not None:
        ready_folder(output)
    drawn: Any = decision
    if model is not None:
        pipe = load(model, device="cpu")
        description = description_for(pipe, decision, given)
        drawn = stepmask.make_plan(decision, description.graph)
        fraction = cost_of(description, first_step(pipe, given)).fraction(drawn)
    out.print(terminal_map(drawn, min(100, out.width)))
    record = decision.provenance.items()
    made = ", ".join(f"{k} {v}" for k, v in record if isinstance(v, str | int | float) and k not in SAID_ELSEWHERE)
    scheduler = decision.scheduler["class"] if decision.scheduler else "any scheduler"
    out.print(f"{decision!r}, {scheduler}; {made or 'no provenance'}", soft_wrap=True)
    if "psnr" in decision.provenance:
        out.print(f"when learned: {reached(decision)}", soft_wrap=True)
    if fraction is not None:
        out.print(f"{fraction:.1%} of the full run's MACs after elimination")
    if output is not None:
        for path in draw(decision, drawn, fraction, output):
            out.print(str(path))


def recipe_table(recipe: Recipe) -> Table:
    """One line per step, as far as the recipe says something of it."""
    from rich.table import Table

    low, levels = recipe.resolution, recipe.timesteps or recipe.sigmas
    columns: dict[str, list[str]] = {"step": [str(step) for step in range(recipe.num_inference_steps)]}
    if levels is not None:
        columns["timestep" if recipe.timesteps else "sigma"] = [f"{level:g}" for level in levels]
    if low is not None:
        columns["resolution"] = [f"{low.factor if step < low.switch else 1:g}" for step in range(len(columns["step"]))]
    if recipe.guidance is not None:
        columns["guidance"] = [GUIDANCE[letter] for letter in recipe.guidance]
    if recipe.mask is not None and recipe.mask.num_rows == recipe.num_inference_steps:
        columns["sites that compute"] = [f"{share:.0%}" for share in recipe.mask.compute.mean(1)]
    table = Table(*columns)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def draw(mask: Any, mask_or_plan: Any, fraction: float | None, folder: Path) -> list[Path]:
    """Write heatmap and grid, and the scores if the mask has them; returns the files."""
    from stepmask import pictures

    drawn = {"heatmap.png": pictures.heatmap(mask_or_plan), "grid.png": pictures.grid(mask_or_plan, fraction)}
    if mask.scores is not None and mask.num_rows > 1:
        drawn["scores.png"] = pictures.score_histogram(mask)
    return [pictures.save_png(picture, folder / name) for name, picture in drawn.items()]
