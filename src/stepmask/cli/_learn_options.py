"""Command line options made from the configurations of the ways to learn: each option is stated once, there.

An option that the user does not give is not passed on, so that a method's own default holds. Help shows those of the
method that was chosen, where one was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from stepmask.learning import Option, learners


@cache
def _options() -> dict[str, dict[str, Option]]:
    """By name, what an option is for each method that has it."""
    found: dict[str, dict[str, Option]] = {}
    for learner in learners().values():
        for option in filter(lambda one: one.on_command_line, learner.configuration.options()):
            found.setdefault(option.name, {})[learner.name] = option
    return found


class LearnCommand(TyperCommand):
    """A verb whose help shows the options of the method that was chosen before ``--help``."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Tell of the arguments and of the options, but those of other methods."""
        source = ctx.get_parameter_source("method")  # None where --help comes before it
        chosen = ctx.params["method"].value if source is not None and source.name == "COMMANDLINE" else None
        for param in self.params:
            by_method = _options().get(param.name)
            if by_method is not None:
                param.hidden = chosen not in by_method
                param.rich_help_panel = f"Options of --method {chosen}"
                param.help = _help(by_method[chosen]) if chosen in by_method else param.help
        super().format_help(ctx, formatter)


def with_learn_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace the ``**options`` of a verb by one option per option of a method; the verb gets those that were given."""
    signature = inspect.signature(verb, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    made = [_parameter(name, next(iter(by_method.values()))) for name, by_method in _options().items()]

    @wraps(verb)
    def wrapper(**values: Any) -> None:
        verb(**{name: value for name, value in values.items() if name not in _options() or value is not None})

    del wrapper.__wrapped__
    wrapper.__signature__ = signature.replace(parameters=[*kept, *made])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in (*kept, *made)}
    return wrapper


def _parameter(name: str, option: Option) -> inspect.Parameter:
    given = typer.Option(help=_help(option), metavar="|".join(option.choices) or None)
    annotation = Annotated[option.type | None, given]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(option: Option) -> str:
    default = _spelled(option)
    unit = f" {option.unit}" if option.unit and default[0].isdigit() else ""
    return f"{option.help} Default: {default}{unit}."


def _spelled(one: Option) -> str:
    """A default as the command line takes it."""
    if one.type is bool:
        return f"--{'' if one.default else 'no-'}{one.name.replace('_', '-')}"
    return "no limit" if one.default is None else f"{one.default}"
