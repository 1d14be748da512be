"""stepmask optimise: the best recipe for a budget of work, or for several."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepmask.cli.common.app import app, stderr, stdout
from stepmask.cli.common.arguments import (
    Conditions,
    Device,
    Folder,
    Model,
    Precision,
    Resume,
    Scheduler,
    SchedulerChoice,
)
from stepmask.cli.common.call_arguments import Call, Guidance, call_kwargs
from stepmask.cli.common.models import load
from stepmask.cli.common.output import ready_file
from stepmask.errors import StepMaskError
from stepmask.files import is_file, ready_folder

if TYPE_CHECKING:
    from stepmask.frontier import Frontier


class Unit(str, Enum):
    """What budgets are counted in."""

    evaluations = "evaluations"
    gmacs = "gmacs"
    ms = "ms"


@app.command()
def optimise(
    model: Model,
    output: Folder = Path("recipes"),
    budget: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="Evaluations of the denoiser at full resolution that an image may take, both halves of guidance "
            "counted as one; or what --unit says. Several, 4,6,8,10 for example, are optimised in one pass.",
        ),
    ] = "10",
    unit: Annotated[
        Unit,
        typer.Option(
            help="What budgets are counted in: [b]evaluations[/b], [b]gmacs[/b] for an image, or [b]ms[/b] of the "
            "denoiser for a batch, measured here."
        ),
    ] = Unit.evaluations,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in that batch.")] = 1,
    num_images: Annotated[
        int, typer.Option(min=2, help="Images that timesteps are learned on, and as many that recipes are chosen by.")
    ] = 8,
    num_held_back: Annotated[
        int, typer.Option(min=2, help="Images, not used before, that results are measured on.")
    ] = 16,
    masks: Annotated[
        bool, typer.Option(help="Learn masks for more steps than the budget; without, the other levers share it.")
    ] = True,
    mask_minutes: Annotated[
        float | None, typer.Option(help="How long learning the masks of one number of steps may take.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=0, help="Iterations in which timesteps are learned.")] = 3,
    enough: Annotated[
        float,
        typer.Option(help="The converged run is the one that doubling its steps changes by no more than this, in dB."),
    ] = 45.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise, conditions and draws.")] = 0,
    scheduler: SchedulerChoice = Scheduler.keep,
    guidance_scale: Guidance = None,
    conditions: Conditions = None,
    call: Call = None,
    resume: Resume = None,
    device: Device = None,
    dtype: Precision = None,
) -> None:
    """Find the best recipe for MODEL at a budget: fewer steps, cheaper steps, lower resolution, or all of it.

    Every lever is tried alone, and all together, and judged by the distance to the converged run, of so many steps that
    more change nothing. Writes the recipes, a table of all of them, and a picture of quality over work.

        stepmask optimise google/ddpm-cifar10-32 --scheduler ddim --budget 6,10 --resume state -o recipes

        stepmask sample google/ddpm-cifar10-32 --mask recipes/recipe-10.json -o samples
    """
    import stepmask

    budgets, given = numbers(budget), call_kwargs(guidance_scale, call)
    ready_folder(output)
    if resume is not None:
        ready_file(resume)
    pipe = load(model, scheduler=scheduler, device=device, dtype=dtype)
    try:
        found = stepmask.optimise(
            pipe,
            budgets,
            num_images=num_images,
            num_held_back=num_held_back,
            masks=masks,
            mask_minutes=mask_minutes,
            iterations=iterations,
            enough=enough,
            unit=unit.value,
            batch_size=batch_size,
            seed=seed,
            call_kwargs=given or None,
            conditions=conditions,
            resume=resume,
        )
    except KeyboardInterrupt:
        if resume is not None and is_file(resume):
            stderr().print(f"the state is kept in {resume}; run the same command again to go on")
        raise
    stdout().print(found.table())
    for path in written(found, model, output):
        stdout().print(str(path), soft_wrap=True)


def numbers(text: str) -> tuple[float, ...]:
    """Budgets from the text of ``--budget``, which separates them by commas.

    Raises:
        StepMaskError: It holds something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise StepMaskError(f"--budget takes numbers of evaluations, 4,6,8,10 for example, got {text!r}") from None


def written(found: Frontier, model: str, folder: Path) -> list[Path]:
    """Write the frontier, the best recipe of each budget, and the picture."""
    from stepmask import pictures
    from stepmask.frontier import UNITS

    paths = [folder / "frontier.json"]
    found.save(paths[0])
    for budget in found.budgets:
        paths.append(folder / f"recipe-{budget:g}.json")
        found.at(budget).save(paths[-1])
    lines = {
        way: [(point.work, point.psnr, point.psnr - point.confidence[0]) for point in found.way(way)]
        for way in dict.fromkeys(point.way for point in found.points)
    }
    return [*paths, pictures.save_png(pictures.trade_off(lines, model, UNITS[found.unit]), folder / "frontier.png")]
