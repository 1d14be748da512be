"""Command line options made from the configurations of the ways to learn: each option is stated once, there.

An option that the user does not give is not passed on, so that a method's own default holds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from stepmask.learning import Option, learners


def with_learn_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace the ``**options`` of a verb by one option per option of a method; the verb gets those that were given."""
    signature = inspect.signature(verb, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    by_name: dict[str, dict[str, Option]] = {}  # what an option is for each method that has it
    for learner in learners().values():
        for option in filter(lambda one: one.on_command_line, learner.configuration.options()):
            by_name.setdefault(option.name, {})[learner.name] = option
    made = [_parameter(name, by_method) for name, by_method in by_name.items()]

    @wraps(verb)
    def wrapper(**values: Any) -> None:
        verb(**{name: value for name, value in values.items() if name not in by_name or value is not None})

    del wrapper.__wrapped__
    wrapper.__signature__ = signature.replace(parameters=[*kept, *made])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in (*kept, *made)}
    return wrapper


def _parameter(name: str, by_method: dict[str, Option]) -> inspect.Parameter:
    methods, first = list(by_method), next(iter(by_method.values()))
    spelled = {method: _spelled(one) for method, one in by_method.items()}
    usual = spelled[methods[0]]
    unit = f" {first.unit}" if first.unit and usual[0].isdigit() else ""
    others = "".join(f"; {method}: {value}" for method, value in spelled.items() if value != usual)
    option = typer.Option(
        help=f"{first.help} Default: {usual}{unit}{others}.",
        metavar="|".join(first.choices) or None,
        rich_help_panel=f"Options of --method {', '.join(methods[:-1])}{' and ' if methods[1:] else ''}{methods[-1]}",
    )
    annotation = Annotated[first.type | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _spelled(one: Option) -> str:
    """A default as the command line takes it."""
    if one.type is bool:
        return f"--{'' if one.default else 'no-'}{one.name.replace('_', '-')}"
    return "no limit" if one.default is None else f"{one.default}"
