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
from stepmask.errors import StepMaskError


class Format(str, Enum):
    """Whose file to write."""

    smoothcache = "smoothcache"
    cache_dit = "cache-dit"


DEFAULTS = {Format.smoothcache: Path("smoothcache.json"), Format.cache_dit: Path("cache-dit.yaml")}


class Names(str, Enum):
    """How keys call layers; as `stepmask.schedules.export_smoothcache` takes them."""

    diffusers = "diffusers"
    dit = "dit"


@app.command()
def export(
    mask: MaskArgument,
    at: At = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Name of the file to write. The default is smoothcache.json or cache-dit.yaml.",
        ),
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="[b]smoothcache[/b] is JSON with 1 or 0 for each layer and step, [b]cache-dit[/b] YAML with 1 or 0 "
            "for each step. The default is cache-dit where FILE ends in .yaml, else smoothcache.",
        ),
    ] = None,
    names: Annotated[
        Names | None,
        typer.Option(
            help="Names of layers in the file: attn1 and ff as in [b]diffusers[/b], or attn and mlp as in the files of "
            "SmoothCache for [b]dit[/b]. The default is diffusers; for smoothcache alone."
        ),
    ] = None,
) -> None:
    """Write a mask as a schedule of SmoothCache, or its whole steps for cache-dit.

    SmoothCache takes masks of a transformer that compute and hold. cache-dit takes masks each of whose steps computes
    in full or rests in full; where those that rest forecast, its TaylorSeer does too.
    """
    from stepmask.schedules import export_cache_dit, export_smoothcache

    in_yaml = output is not None and output.suffix in (".yaml", ".yml")
    format_ = format_ or (Format.cache_dit if in_yaml else Format.smoothcache)
    if names is not None and format_ != Format.smoothcache:
        raise StepMaskError(f"--names belongs to --format smoothcache, not to {format_.value}: leave it out")
    decision, file = load_mask(mask, at), ready_file(output or DEFAULTS[format_])
    if format_ == Format.cache_dit:
        export_cache_dit(decision, file)
        said = f"{int(decision.compute.all(axis=1).sum())} of them compute"
    else:
        said = f"{len(export_smoothcache(decision, file, (names or Names.diffusers).value))} lists"
    stdout().print(f"{file}: {decision.num_rows} steps, {said}", soft_wrap=True)
