"""stepmask evaluate: fidelity, MACs and measured speed-up against the full run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepmask.cli.common import arguments as shared
from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.call_arguments import Call, Guidance, call_kwargs
from stepmask.cli.common.models import load
from stepmask.cli.common.output import ready_file, runs_bar, write_json
from stepmask.cost import BATCH_SIZE
from stepmask.sources import load_one


@app.command()
def evaluate(
    model: shared.Model,
    mask: shared.MaskFile,
    at: shared.At = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all numbers into this file too, as JSON.")
    ] = None,
    num_images: shared.NumImages = 16,
    first_seed: shared.FirstSeed = 10_000,
    batch_size: shared.BatchSize = BATCH_SIZE,
    speed: shared.Speed = True,
    pairs: Annotated[int, typer.Option(min=1, help="Measure the speed-up on at least so many pairs of runs.")] = 3,
    metrics: shared.MetricNames = None,
    real: shared.RealImages = None,
    converged: shared.AgainstConverged = False,
    guidance_scale: Guidance = None,
    conditions: shared.Conditions = None,
    call: Call = None,
    device: shared.Device = None,
    dtype: shared.Precision = None,
    cache_device: shared.CacheDevice = None,
    steps: shared.NoSteps = None,
) -> None:
    """Compare MODEL with and without a mask or a recipe: PSNR, SSIM, MACs and speed.

    Both runs start from the same noise, with seeds that learning has not seen.
    """
    import stepmask

    decision, given = load_one(mask, at=at), call_kwargs(guidance_scale, call)
    if json is not None:
        ready_file(json)
    measure = shared.metrics_for(metrics, real)
    pipe = load(model, mask=decision, device=device, dtype=dtype)
    if measure is not None:
        measure.check(pipe)
    with runs_bar("evaluating") as tell:
        result = stepmask.evaluate(
            pipe,
            decision,
            seeds=range(first_seed, first_seed + num_images),
            call_kwargs=given,
            conditions=conditions,
            batch_size=batch_size,
            speed=speed,
            speed_pairs=pairs,
            reference="converged" if converged else None,
            cache_device=cache_device,
            progress=tell,
        )
    stdout().print(result)
    scores = {} if measure is None else measure(result.masked, result.full, result.prompts)
    if scores:
        stdout().print(_scores_table(scores))
    if json is not None:
        write_json(json, result.to_dict() | {"scores": {name: score.to_dict() for name, score in scores.items()}})
        stdout().print(str(json))


def _scores_table(scores: dict[str, Any]) -> Any:
    """Value, interval, and change against the full run."""
    from rich.table import Table

    table = Table("score", title="scores of the masked run's images", title_justify="left")
    for column in ("value", "95% interval", "less the full run's", "95% interval"):
        table.add_column(column, justify="right")
    for name, score in scores.items():
        table.add_row(name, *_numbers(score), *(_numbers(score.change) if score.change else ("-", "-")))
    counts = sorted({score.num_images for score in scores.values()})
    table.caption = f"of {' and '.join(map(str, counts))} images"
    table.caption_justify = "left"
    return table


def _numbers(found: Any) -> tuple[str, str]:
    interval = "-" if found.low is None else f"{found.low:.4g} to {found.high:.4g}"
    return f"{found.value:.4g}", interval
