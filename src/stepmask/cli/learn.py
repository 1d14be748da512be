"""stepmask learn: a mask for a model, or a family of masks, from noise alone."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from stepmask.cli._learn_options import with_learn_options
from stepmask.cli._targets import MaxCacheMib, MinPsnr, TargetMacs, Targets, TargetSpeedup, arguments
from stepmask.cli.common.app import app, stderr, stdout
from stepmask.cli.common.arguments import Conditions, Device, Model, Precision, Scheduler, SchedulerChoice
from stepmask.cli.common.call_arguments import Call, call_kwargs
from stepmask.cli.common.mask_files import load_masks
from stepmask.cli.common.models import load
from stepmask.cli.common.output import ready_file
from stepmask.cli.common.provenance import asked, family_table, reached


class Method(str, Enum):
    """How a mask comes to be."""

    everything = "global"
    per_step = "per-step"
    paper = "paper"
    harmonica = "harmonica"
    l2c = "l2c"
    ecad = "ecad"
    dip_go = "dip-go"


@app.command()
@with_learn_options
def learn(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write; mask.json by default, family.json with --targets."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Sampling steps of the runs that the mask is for.")] = 50,
    method: Annotated[
        Method,
        typer.Option(
            help="[b]global[/b] selects by the final image what each block does at each step: compute, hold its last "
            "value, or forecast from its last two. [b]per-step[/b] learns from the error of each step alone, "
            "[b]paper[/b] does so as arXiv 2603.19939 (as we read it), [b]harmonica[/b] and [b]l2c[/b] as HarmoniCa "
            "and Learning-to-Cache; [b]ecad[/b] searches by a genetic algorithm, [b]dip-go[/b] learns by gradients "
            "through the whole run. All but global only compute or hold."
        ),
    ] = Method.everything,
    target_macs: TargetMacs = None,
    targets: Targets = None,
    target_speedup: TargetSpeedup = None,
    min_psnr: MinPsnr = None,
    max_cache_mib: MaxCacheMib = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise, conditions and draws.")] = 0,
    scheduler: SchedulerChoice = Scheduler.keep,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Strength of classifier-free guidance; by default the pipeline's own.")
    ] = None,
    conditions: Conditions = None,
    call: Call = None,
    start: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Mask or family to start from, learned before a fine-tune or for another sampler; may be repeated.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the state here; after an interrupt the same command goes on from it."),
    ] = None,
    device: Device = None,
    dtype: Precision = None,
    **options: Any,
) -> None:
    """Learn for MODEL which block computes, holds or forecasts at which step.

    Needs no data: it looks at what the model itself makes of noise. Its weights stay as they are.
    """
    wanted = arguments(method.value, target_macs, targets, target_speedup, min_psnr, max_cache_mib)
    output = output or Path("family.json" if targets else "mask.json")
    ready_file(output)
    if resume is not None:
        ready_file(resume)
    import stepmask
    from stepmask.learning.end_to_end.select import Asked
    from stepmask.learning.entry import DEFAULT_TARGET, config_for

    if not wanted.keys() - {"max_cache_bytes"}:
        wanted["target_macs"] = float(DEFAULT_TARGET)
    Asked(**wanted)  # what is wrong with an option is said before the model is loaded
    masks = load_masks(start) if start else None
    called = call_kwargs(guidance_scale, call)
    given = {
        **wanted,
        "start": masks,
        "config": config_for(method.value, None, options),
        "seed": seed,
        "resume": resume,
    }
    pipe = load(model, scheduler=scheduler, device=device, dtype=dtype)
    given |= {"num_inference_steps": steps, "call_kwargs": called or None}
    given["conditions"] = conditions
    try:
        make = stepmask.learn_family if targets else stepmask.learn
        made = make(pipe, method=method.value, **given)
    except KeyboardInterrupt:
        if resume is not None and resume.exists():
            stderr().print(f"the state is kept in {resume}; run the same command again to go on")
        raise
    made.save(output)
    out = stdout()
    mask = next(iter(made)).mask if targets else made
    size = f"{len(made)} masks of " if targets else ""
    out.print(f"{output}: {size}{mask.num_rows} steps x {len(mask.sites)} sites", soft_wrap=True)
    out.print(f"asked for {asked(mask)}", soft_wrap=True)
    out.print(family_table(made) if targets else f"reached {reached(mask)}", soft_wrap=True)
