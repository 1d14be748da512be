"""stepmask report: one page to explore, of whatever was learned, or of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepmask import plugins
from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.arguments import At
from stepmask.cli.common.call_arguments import Call, call_kwargs
from stepmask.cli.common.models import load
from stepmask.errors import StepMaskError
from stepmask.family import MaskFamily
from stepmask.files import is_file, ready_folder
from stepmask.frontier import Frontier
from stepmask.recipe import Recipe
from stepmask.sources import NAMES
from stepmask.sources import load as load_any

if TYPE_CHECKING:
    from stepmask.mask import StepMask
    from stepmask.report import Report


@app.command()
def report(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="WHAT",
            help="A mask, a family of masks, a recipe or a frontier of recipes: a file, the folder that it was saved "
            "in, or hub:USER/NAME. Or the folder of a benchmark, which the laboratory reads.",
        ),
    ],
    at: At = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder for the page, index.html; it is made if it is not there."
        ),
    ] = Path("report"),
    model: Annotated[
        str | None,
        typer.Option(
            help="The model of the mask or family. The map then shows what runs on it after elimination, what each "
            "cell costs, and the bytes that it keeps. Without it, the map shows what the mask asks for."
        ),
    ] = None,
    call: Call = None,
) -> None:
    """Write one HTML page on a mask, a family, a recipe or a folder of results, to explore in a browser.

    The page has a map of all steps and sites: point at a cell, or walk there with the arrow keys, and it says what runs
    there, why, and what it costs. Of a family, a frontier or a benchmark it also has quality against cost, method by
    method. Of a benchmark whose pictures are there it shows those, with a slider between the full and the masked run.

    The page is a single file that needs no network: open it from the folder, send it, or put it on any web server.

        stepmask report mask.json --model google/ddpm-cifar10-32 -o report

        stepmask report family.json -o report

        stepmask report recipes/frontier.json -o report

        stepmask report benchmark -o report
    """
    from stepmask.report import write_report

    is_shared = not what.is_dir() or any(is_file(what / name) for name in NAMES)
    made = _one(what, at, model, call, output) if is_shared else _benchmark(what, at, model, call)
    path = write_report(made, ready_folder(output))
    size = path.stat().st_size / 2**20
    stdout().print(f"{path}: {size:.1f} MiB, open it in a browser", soft_wrap=True)


def _benchmark(folder: Path, at: float | None, model: str | None, call: list[str] | None) -> Report:
    from stepmask.report import check_drawable

    given = [name for name, value in (("--at", at), ("--model", model), ("--call", call)) if value is not None]
    if given:
        raise StepMaskError(f"{', '.join(given)} goes with a mask or a family, and {folder} is a folder: leave it out")
    check_drawable()
    return plugins.results_of(folder)


def _one(what: Path, at: float | None, model: str | None, call: list[str] | None, output: Path) -> Report:
    from stepmask import report

    if call and model is None:
        raise StepMaskError("--call says how a model is called: give the model too, with --model")
    decision = load_any(what, at=at)
    if isinstance(decision, MaskFamily | Frontier):
        report.check_drawable()
    ready_folder(output)
    mapped = _mapped(decision, model, call)
    made = {
        MaskFamily: ("Family of masks", report.family_study),
        Frontier: ("Frontier of recipes", report.frontier_study),
        Recipe: ("Recipe", report.recipe_study),
    }
    title, study = made.get(type(decision), ("Mask", report.mask_study))
    return report.Report(title, what.name if is_file(what) else what.as_posix(), [study(decision, mapped)])


def _mapped(decision: Any, model: str | None, call: list[str] | None) -> Any:
    """What makes the maps: of masks alone, or of what they do on a model."""
    from stepmask.report import mask_map
    from stepmask.report.on_model import maps_on

    if model is None:
        return mask_map
    mask = next((mask for mask in _masks_of(decision) if mask is not None), None)
    if mask is None:
        raise StepMaskError("there is no mask to show on a model: leave --model out")
    given = call_kwargs(mask.provenance.get("guidance_scale")) | call_kwargs(None, call)
    return maps_on(load(model, device="cpu"), mask, given)


def _masks_of(decision: Any) -> list[StepMask | None]:
    if isinstance(decision, MaskFamily):
        return [member.mask for member in decision]
    if isinstance(decision, Frontier):
        return [point.recipe.mask for point in decision.points]
    return [decision.mask if isinstance(decision, Recipe) else decision]
