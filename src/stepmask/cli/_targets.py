"""What `stepmask learn` can be asked to reach: the options, and what they are for `stepmask.learn`."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from stepmask.cli.common.arguments import shares
from stepmask.errors import StepMaskError

PANEL = "What to reach (one of the first four)"

TargetMacs = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        rich_help_panel=PANEL,
        help="Share of the full run's MACs to keep, 0.6 for 60%; the mask ends at or under it. With no target at all "
        "it is 0.6.",
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="SHARES",
        rich_help_panel=PANEL,
        help="Several such shares in one pass, 0.7,0.6,0.5 for example: writes a family of masks, from which --at of "
        "the other verbs picks one.",
    ),
]
TargetSpeedup = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Factor by which the denoiser's time shall fall, 1.5 for two thirds of the time; by latencies that are "
        "measured on the device of this run.",
    ),
]
MinPsnr = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Finds the cheapest mask whose images have at least this mean PSNR in dB against the full run's. 20 dB "
        "is an error (root of the mean square) of 10% of the range of pixel values, 30 dB of 3%, 40 dB of 1%.",
    ),
]
MaxCacheMib = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Most MiB of kept values at any moment, per image, guidance included; goes with every target. No limit "
        "by default.",
    ),
]


def goals(
    target_macs: float | None,
    targets: str | None,
    target_speedup: float | None,
    min_psnr: float | None,
    max_cache_mib: float | None,
) -> dict[str, Any]:
    """Arguments of `stepmask.learn`, or with ``targets`` of `stepmask.learn_family`: those that were given.

    Raises:
        StepMaskError: More than one target, or a list that is none.
    """
    kinds = {"target_macs": target_macs, "targets": targets, "target_speedup": target_speedup, "min_psnr": min_psnr}
    given = {name: value for name, value in kinds.items() if value is not None}
    if len(given) > 1:
        raise StepMaskError(f"{_options(given)} exclude each other: give one of them")
    if targets is not None:
        given["targets"] = shares(targets)
    if max_cache_mib is not None:
        if not 0 < max_cache_mib < math.inf:
            raise StepMaskError(f"--max-cache-mib must be a positive number, got {max_cache_mib:g}")
        given["max_cache_bytes"] = int(max_cache_mib * 2**20)
    return given


def _options(names: Any) -> str:
    return " and ".join(f"--{name.replace('_', '-').replace('bytes', 'mib')}" for name in names)
