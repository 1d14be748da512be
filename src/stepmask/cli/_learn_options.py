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
    made = [_parameter(name, found) for name, found in offered().items()]
    names = {p.name for p in made}

    @wraps(verb)
    def wrapper(**values: Any) -> None:
        verb(**{name: value for name, value in values.items() if name not in names or value is not None})

    del wrapper.__wrapped__
    wrapper.__signature__ = signature.replace(parameters=[*kept, *made])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in (*kept, *made)}
    return wrapper


def offered() -> dict[str, dict[str, Option]]:
    """By name of an option, what it is for each method that has it, by the method's name."""
    found: dict[str, dict[str, Option]] = {}
    for learner in learners().values():
        for one in learner.configuration.options():
            if one.on_command_line:
                found.setdefault(one.name, {})[learner.name] = one
    return found


def _parameter(name: str, by_method: dict[str, Option]) -> inspect.Parameter:
    first = next(iter(by_method.values()))
    methods = list(by_method)
    text = f"{first.help} {_defaults(by_method)}"
    metavar = "|".join(first.choices) or None
    option = typer.Option(help=text, metavar=metavar, rich_help_panel=_panel(methods))
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[first.type | None, option]
    )


def _panel(methods: list[str]) -> str:
    """The heading of the options that these methods have."""
    return f"Options of --method {', '.join(methods[:-1])}{' and ' if methods[1:] else ''}{methods[-1]}"


def _defaults(by_method: dict[str, Option]) -> str:
    """What holds where the option is not given, by method where that differs."""
    spelled = {method: _spelled(one) for method, one in by_method.items()}
    usual = next(iter(spelled.values()))
    others = [f"; {method}: {value}" for method, value in spelled.items() if value != usual]
    unit = next(iter(by_method.values())).unit
    return f"Default: {usual}{f' {unit}' if unit and usual[0].isdigit() else ''}{''.join(others)}."


def _spelled(one: Option) -> str:
    """A default as the command line takes it."""
    if one.type is bool:
        return f"--{'' if one.default else 'no-'}{one.name.replace('_', '-')}"
    return "no limit" if one.default is None else f"{one.default}"
