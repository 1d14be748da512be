"""stepmask learn: a mask for a model, or a family of masks, from noise alone."""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from stepmask.cli._learn_options import LearnCommand, with_learn_options
from stepmask.cli.common.app import app, stderr, stdout
from stepmask.cli.common.arguments import (
    Conditions,
    Device,
    Model,
    Precision,
    Resume,
    Scheduler,
    SchedulerChoice,
    shares,
)
from stepmask.cli.common.call_arguments import Call, call_kwargs
from stepmask.cli.common.mask_files import load_masks
from stepmask.cli.common.models import load
from stepmask.cli.common.output import ready_file
from stepmask.cli.common.processes import one_voice
from stepmask.cli.common.provenance import asked, family_table, reached
from stepmask.errors import StepMaskError
from stepmask.files import is_file
from stepmask.learning import Goals, learners
from stepmask.learning.goals import DEFAULT_TARGET_MACS, TOGETHER, masks_of
from stepmask.learning.registry import DEFAULT, configured

Method = Enum("Method", {name: name for name in learners()}, type=str)  # type: ignore[misc]
"""The ways to learn that stepmask and the installed plugins have registered."""

USUAL = Method(DEFAULT)
SUMMARIES = " ".join(f"[b]{name}[/b] {learner.summary}" for name, learner in learners().items())
SUMMARIES += " Each has options of its own: stepmask learn --method NAME --help shows them."


TARGETS_PANEL = "What to reach"

TargetMacs = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        rich_help_panel=TARGETS_PANEL,
        help="Share of the full run's MACs to keep, 0.6 for 60%; the mask ends at or under it. With no target at all "
        "it is 0.6.",
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="SHARES",
        rich_help_panel=TARGETS_PANEL,
        help="Several such shares in one pass, 0.7,0.6,0.5 for example: writes a family of masks, from which --at of "
        "the other verbs picks one.",
    ),
]
TargetSpeedup = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=TARGETS_PANEL,
        help="Factor by which the denoiser's time shall fall, 1.5 for two thirds of the time; by latencies that are "
        "measured on the device of this run, for --speed-batch-size images at once. Goes with --target-macs: then the "
        "mask keeps to both.",
    ),
]
MinPsnr = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=TARGETS_PANEL,
        help="Finds the cheapest mask whose images have at least this mean PSNR in dB against the full run's. 20 dB "
        "is an error (root of the mean square) of 10% of the range of pixel values, 30 dB of 3%, 40 dB of 1%.",
    ),
]
MaxCacheMib = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=TARGETS_PANEL,
        help="Most MiB of kept values at any moment, per image, guidance included; goes with every target. By "
        "default 64 MiB, or six of the tensors that pass from block to block where that is more.",
    ),
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=TARGETS_PANEL,
        help="Gives the best mask that learning finds in so many minutes, over all sessions with --resume; goes with "
        "every target. How long it takes otherwise is said before it begins.",
    ),
]


@app.command(cls=LearnCommand)
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
    method: Annotated[Method, typer.Option(help=SUMMARIES, is_eager=True)] = USUAL,
    target_macs: TargetMacs = None,
    targets: Targets = None,
    target_speedup: TargetSpeedup = None,
    min_psnr: MinPsnr = None,
    max_cache_mib: MaxCacheMib = None,
    max_minutes: MaxMinutes = None,
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
    resume: Resume = None,
    device: Device = None,
    dtype: Precision = None,
    **options: Any,
) -> None:
    """Learn for MODEL which block computes, holds or forecasts at which step.

    Needs no data: it looks at what the model itself makes of noise. Its weights stay as they are. It says what it will
    take before it begins. Several devices share the images out where it is started with accelerate launch or torchrun,
    one process for each.

    stepmask learn google/ddpm-cifar10-32 --scheduler ddim --target-macs 0.5 --max-minutes 20

    stepmask learn MODEL --steps 28 --targets 0.6,0.5,0.4 --conditions prompts.txt --resume state -o family.json
    """
    with one_voice() as processes:
        kinds = {"target_macs": target_macs, "targets": targets, "target_speedup": target_speedup, "min_psnr": min_psnr}
        wanted = _goals(kinds, max_cache_mib) | ({} if max_minutes is None else {"max_minutes": max_minutes})
        learner, config = configured(method.value, options)
        if not wanted.keys() - {"max_cache_bytes", "max_minutes"}:
            wanted["target_macs"] = DEFAULT_TARGET_MACS
        masks = load_masks(start) if start else None
        learner.check(Goals(**wanted, start=masks_of(masks)))  # what is wrong is said before the model is loaded
        output = output or Path("family.json" if targets else "mask.json")
        if processes.is_first:
            ready_file(output)
            if resume is not None:
                ready_file(resume)
        import stepmask

        given = {**wanted, "start": masks, "seed": seed, "resume": resume, "conditions": conditions}
        given |= {"num_inference_steps": steps, "call_kwargs": call_kwargs(guidance_scale, call) or None}
        pipe = load(model, scheduler=scheduler, device=device, dtype=dtype)
        try:
            make = stepmask.learn_family if targets else stepmask.learn
            made = make(pipe, method=config, **given)
        except KeyboardInterrupt:
            if processes.is_first and resume is not None and is_file(resume):
                stderr().print(f"the state is kept in {resume}; run the same command again to go on")
            raise
        if not processes.is_first:
            return
        made.save(output)
        out = stdout()
        mask = next(iter(made)).mask if targets else made
        size = f"{len(made)} masks of " if targets else ""
        out.print(f"{output}: {size}{mask.num_rows} steps x {len(mask.sites)} sites", soft_wrap=True)
        out.print(f"asked for {asked(mask)}", soft_wrap=True)
        out.print(family_table(made) if targets else f"reached {reached(mask)}", soft_wrap=True)


def _goals(kinds: dict[str, Any], max_cache_mib: float | None) -> dict[str, Any]:
    """Arguments of `stepmask.learn`, or with ``targets`` of `stepmask.learn_family`: those that were given."""
    given = {name: value for name, value in kinds.items() if value is not None}
    if len(given) > 1 and not given.keys() <= TOGETHER:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise StepMaskError(f"{options} exclude each other: give one of them")
    if "targets" in given:
        given["targets"] = shares(given["targets"])
    if max_cache_mib is not None:
        if not 0 < max_cache_mib < math.inf:
            raise StepMaskError(f"--max-cache-mib must be a positive number, got {max_cache_mib:g}")
        given["max_cache_bytes"] = int(max_cache_mib * 2**20)
    return given
