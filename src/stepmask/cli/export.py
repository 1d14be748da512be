"""stepmask export: a mask as a file that others read."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.arguments import At
from stepmask.cli.common.mask_files import load_mask
from stepmask.cli.common.output import ready_file


class Names(str, Enum):
    """How keys call layers; as `stepmask.schedules.export_smoothcache` takes them."""

    diffusers = "diffusers"
    dit = "dit"


@app.command()
def export(
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="Mask file or hub:user/name, or a family's with --at.")],
    at: At = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")] = Path(
        "smoothcache.json"
    ),
    names: Annotated[
        Names,
        typer.Option(
            help="How the file calls layers: as [b]diffusers[/b] does, attn1 and ff, or attn and mlp, as SmoothCache's "
            "files for [b]dit[/b] do."
        ),
    ] = Names.diffusers,
) -> None:
    """Write a mask as a schedule of SmoothCache: JSON with 1 and 0 for each layer and step.

    Only masks of transformers that compute and hold can be said so.
    """
    from stepmask.schedules import export_smoothcache

    decision = load_mask(mask, at)
    content = export_smoothcache(decision, ready_file(output), names.value)
    stdout().print(f"{output}: {decision.num_rows} steps, {len(content)} lists", soft_wrap=True)
