"""stepmask learn: a mask for a model, from noise alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepmask.cli._app import app, stderr, stdout
from stepmask.cli._arguments import Device, Model, Precision, Scheduler, SchedulerChoice
from stepmask.cli._learn_options import with_learn_options
from stepmask.cli._models import guidance_kwargs, load
from stepmask.cli._output import ready_file


@app.command()
@with_learn_options
def learn(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Mask file to write.")] = Path(
        "mask.json"
    ),
    steps: Annotated[int, typer.Option(min=2, help="Sampling steps of the runs that the mask is for.")] = 50,
    target_macs: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the full run's MACs to keep, 0.6 for 60%.")
    ] = 0.6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise, conditions and drawn masks.")] = 0,
    scheduler: SchedulerChoice = Scheduler.keep,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Strength of classifier-free guidance; by default the pipeline's own.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the state here; after an interrupt the same command goes on from it."),
    ] = None,
    device: Device = None,
    dtype: Precision = None,
    **options: Any,
) -> None:
    """Learn a mask for MODEL: which block computes at which step, at a given share of the MACs."""
    ready_file(output)
    if resume is not None:
        ready_file(resume)
    import stepmask

    stepmask.learning.LearnConfig(**options)  # says what is wrong with an option before the model is loaded
    pipe = load(model, scheduler=scheduler, device=device, dtype=dtype)
    try:
        mask = stepmask.learn(
            pipe,
            num_inference_steps=steps,
            target_macs=target_macs,
            seed=seed,
            call_kwargs=guidance_kwargs(guidance_scale) or None,
            resume=resume,
            **options,
        )
    except KeyboardInterrupt:
        if resume is not None and resume.exists():
            stderr().print(f"the state is kept in {resume}; run the same command again to go on")
        raise
    mask.save(output)
    fraction = stepmask.measure_cost(pipe).fraction(stepmask.make_plan(mask, stepmask.describe(pipe)))
    stdout().print(f"{output}: {mask.num_rows} steps x {len(mask.sites)} sites, {fraction:.1%} of the full run's MACs")
