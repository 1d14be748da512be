"""stepmask schedule: a mask by rule, without learning."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from stepmask import schedules
from stepmask.cli.common.app import app
from stepmask.cli.common.arguments import FITS_EVERY_SCHEDULER, MaskOutput, Scheduler, SchedulerChoice
from stepmask.cli.common.call_arguments import Call, Guidance, assignments, call_kwargs
from stepmask.cli.common.mask_files import write_schedule
from stepmask.cli.common.models import load_or_preset
from stepmask.cli.common.output import ready_file
from stepmask.errors import StepMaskError
from stepmask.schedules import registry
from stepmask.words import did_you_mean

Rule = Enum("Rule", {name: name for name in schedules.names()}, type=str)  # type: ignore[misc]
"""The schedules that stepmask and the installed plugins have registered."""

USUAL = Rule("key_steps")


def _described(name: str) -> str:
    """A rule, its options with their defaults, and what they mean."""
    schedule = schedules.get(name)
    options = [f"- {o.name}={o.default}: {escape(o.help.replace('`', ''))}" for o in registry.options(schedule)]
    return "\n\n".join([f"[b]{name}[/b]: {escape(registry.summary(schedule))}", *options])


RULES = "\n\n".join(["Rules, and what --set takes:", *map(_described, schedules.names())])


@app.command(epilog=RULES)
def schedule(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help=f"A model as for the other verbs, or {FITS_EVERY_SCHEDULER}")
    ],
    rule: Annotated[Rule, typer.Option(help="The rule; they are described below.")] = USUAL,
    steps: Annotated[int, typer.Option(min=1, help="Number of sampling steps of the runs that the mask is for.")] = 50,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the rule, such as interval=2 or steps=[0,1,3,6]. VALUE is a number, true, false, null, "
            "a list in JSON, or a text. May be given several times.",
        ),
    ] = None,
    output: MaskOutput = Path("mask.json"),
    scheduler: SchedulerChoice = Scheduler.keep,
    guidance_scale: Guidance = None,
    call: Call = None,
) -> None:
    """Make a mask for MODEL by a rule, without learning. It takes seconds."""
    chosen = schedules.get(rule.value)
    given = assignments(set_, "--set takes NAME=VALUE, interval=2 for example")
    taken = [option.name for option in registry.options(chosen)]
    if strangers := sorted(set(given) - set(taken)):
        raise StepMaskError(
            f"{rule.value} takes no {', '.join(strangers)}; it takes {', '.join(taken) or 'no options'}"
            f"{did_you_mean(strangers[0], taken)}"
        )
    ready_file(output)
    pipe, arguments = load_or_preset(model, scheduler), call_kwargs(guidance_scale, call)
    if arguments:
        from stepmask import register_sites

        register_sites(pipe, call_kwargs=arguments)
    try:
        made = chosen(pipe, steps, **given)
    except TypeError as error:
        values = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "its defaults"
        raise StepMaskError(f"{chosen.__name__} cannot use {values}: {error}") from error
    write_schedule(made, model, pipe, output, arguments or None)
