"""stepmask export: a mask as a file that others read."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.arguments import At, MaskArgument
from stepmask.cli.common.mask_files import load_mask
from stepmask.cli.common.output import ready_file


class Names(str, Enum):
    """How keys call layers; as `stepmask.schedules.export_smoothcache` takes them."""

    diffusers = "diffusers"
    dit = "dit"


@app.command()
def export(
    mask: MaskArgument,
    at: At = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Name of the file to write.")] = Path(
        "smoothcache.json"
    ),
    names: Annotated[
        Names,
        typer.Option(
            help="Names of layers in the file: attn1 and ff as in [b]diffusers[/b], or attn and mlp as in the files of "
            "SmoothCache for [b]dit[/b]."
        ),
    ] = Names.diffusers,
) -> None:
    """Write a mask as a schedule of SmoothCache, a JSON file with 1 or 0 for each layer and step.

    The mask must be one of a transformer and may only compute and hold: the format has no forecasts.
    """
    from stepmask.schedules import export_smoothcache

    decision = load_mask(mask, at)
    content = export_smoothcache(decision, ready_file(output), names.value)
    stdout().print(f"{output}: {decision.num_rows} steps, {len(content)} lists", soft_wrap=True)
