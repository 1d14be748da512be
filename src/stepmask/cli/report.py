"""stepmask report: one page to explore, of a mask, a family or a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepmask import plugins
from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.arguments import At
from stepmask.cli.common.call_arguments import Call, call_kwargs
from stepmask.cli.common.mask_files import load_family_or_mask
from stepmask.cli.common.models import load
from stepmask.errors import StepMaskError
from stepmask.family import MaskFamily
from stepmask.files import is_file, ready_folder

if TYPE_CHECKING:
    from stepmask.mask import StepMask
    from stepmask.report import Report


@app.command()
def report(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="WHAT",
            help="File with a mask or a family of masks, hub:USER/NAME, or the folder of a benchmark, which the "
            "laboratory reads.",
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
    """Write one HTML page on a mask, a family or a folder of results, to explore in a browser.

    The page has a map of all steps and sites: point at a cell, or walk there with the arrow keys, and it says what runs
    there, why, and what it costs. Of a family or a benchmark it also has quality against cost, method by method. Of a
    benchmark whose pictures are there it shows those, with a slider between the full and the masked run.

    The page is a single file that needs no network: open it from the folder, send it, or put it on any web server.

        stepmask report mask.json --model google/ddpm-cifar10-32 -o report

        stepmask report family.json -o report

        stepmask report benchmark -o report
    """
    from stepmask.report import write_report

    made = _benchmark(what, at, model, call) if what.is_dir() else _masks(what, at, model, call, output)
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


def _masks(what: Path, at: float | None, model: str | None, call: list[str] | None, output: Path) -> Report:
    from stepmask.report import Report, check_drawable, family_study, mask_study

    if call and model is None:
        raise StepMaskError("--call says how a model is called: give the model too, with --model")
    decision = load_family_or_mask(what, at)
    is_family = isinstance(decision, MaskFamily)
    if is_family:
        check_drawable()
    ready_folder(output)
    mapped = _mapped(decision.members[0].mask if is_family else decision, model, call)
    study = family_study(decision, mapped) if is_family else mask_study(decision, mapped)
    return Report("Family of masks" if is_family else "Mask", what.name if is_file(what) else what.as_posix(), [study])


def _mapped(mask: StepMask, model: str | None, call: list[str] | None) -> Any:
    """What makes the maps: of masks alone, or of what they do on a model."""
    from stepmask.report import mask_map
    from stepmask.report.on_model import maps_on

    if model is None:
        return mask_map
    given = call_kwargs(mask.provenance.get("guidance_scale")) | call_kwargs(None, call)
    return maps_on(load(model, device="cpu"), mask, given)
