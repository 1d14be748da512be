"""stepmask import: a mask from a schedule that others have published."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from stepmask.cli.common.app import app
from stepmask.cli.common.arguments import FITS_EVERY_SCHEDULER, MaskOutput, Scheduler, SchedulerChoice
from stepmask.cli.common.mask_files import write_schedule
from stepmask.cli.common.models import load_or_preset
from stepmask.cli.common.output import ready_file
from stepmask.errors import StepMaskError

THETA = 0.1


class Format(str, Enum):
    """Whose file it is."""

    l2c = "l2c"
    smoothcache = "smoothcache"
    cache_dit = "cache-dit"


ENDINGS = {
    ".pt": Format.l2c,
    ".pth": Format.l2c,
    ".json": Format.smoothcache,
    ".yaml": Format.cache_dit,
    ".yml": Format.cache_dit,
}


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A router of Learning-to-Cache (.pt), a schedule of SmoothCache (.json), or whole steps of cache-dit "
            "(.yaml).",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help=f"The model that the schedule was made for, as for the other verbs, or {FITS_EVERY_SCHEDULER}",
        ),
    ],
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="[b]l2c[/b] is a router of Learning-to-Cache, [b]smoothcache[/b] a schedule of SmoothCache, "
            "[b]cache-dit[/b] whole steps of cache-dit. The default follows from the end of the name, .pt, .json "
            "or .yaml.",
        ),
    ] = None,
    output: MaskOutput = Path("mask.json"),
    theta: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Threshold for l2c: a layer computes where the sigmoid of the router exceeds it. The default is "
            f"{THETA}; the authors take 0.9 for 512 pixels.",
        ),
    ] = None,
    scheduler: SchedulerChoice = Scheduler.keep,
) -> None:
    """Make a mask from FILE, a router or schedule that others have published.

    Nothing in the file is executed. The mask has as many steps as the file.
    """
    format_ = format_ or _format_of(file)
    if theta is not None and format_ != Format.l2c:
        raise StepMaskError(f"--theta belongs to --format l2c, not to {format_.value}: leave it out")
    ready_file(output)
    from stepmask.schedules import import_cache_dit, import_l2c, import_smoothcache

    pipe = load_or_preset(model, scheduler)
    if format_ == Format.l2c:
        mask = import_l2c(file, pipe, theta=THETA if theta is None else theta)
    else:
        mask = (import_cache_dit if format_ == Format.cache_dit else import_smoothcache)(file, pipe)
    write_schedule(mask, model, pipe, output)


def _format_of(file: Path) -> Format:
    if file.suffix not in ENDINGS:
        raise StepMaskError(
            f"the name of {file} does not tell whose file it is: give --format {' or '.join(f.value for f in Format)}"
        )
    return ENDINGS[file.suffix]
