"""Command line options made from the fields of the methods' configurations: written once, there.

An option that the user does not give is not passed on, so that a method's own default holds.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, Literal

import typer

from stepmask.learning import GlobalConfig, LearnConfig
from stepmask_lab.rivals.dip_go.config import FullChainConfig
from stepmask_lab.rivals.ecad.config import GeneticConfig

PANELS = {
    GlobalConfig: "How it selects (method global)",
    LearnConfig: "How it learns (methods per-step, paper, harmonica and l2c)",
    GeneticConfig: "How it evolves (method ecad)",
    FullChainConfig: "How it learns (method dip-go)",
}
PRESETS = {LearnConfig: ("paper", "harmonica", "l2c")}
"""Methods with defaults of their own, each a class method of the configuration."""

NOT_OFFERED = {"objective"}
"""What no text can say."""


def with_learn_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace the ``**options`` of a verb by one option per knob; the verb gets those that were given."""
    signature = inspect.signature(verb, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    made = [parameter for config in PANELS for parameter in _parameters(config)]
    knobs = {p.name for p in made}

    @wraps(verb)
    def wrapper(**values: Any) -> None:
        verb(**{name: value for name, value in values.items() if name not in knobs or value is not None})

    del wrapper.__wrapped__
    wrapper.__signature__ = signature.replace(parameters=[*kept, *made])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in (*kept, *made)}
    return wrapper


def _parameters(config: type) -> typing.Iterator[inspect.Parameter]:
    types, texts = typing.get_type_hints(config), _descriptions(config)
    for field in fields(config):
        if field.name in NOT_OFFERED:
            continue
        type_, choices = types[field.name], None
        if typing.get_origin(type_) is Literal:
            type_, choices = str, "|".join(typing.get_args(type_))
        text = f"{texts[field.name]} {_default(config, field.name)}"
        option = typer.Option(help=text, metavar=choices, rich_help_panel=PANELS[config])
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[type_ | None, option]
        )


def _default(config: type, name: str) -> str:
    """What holds where the option is not given."""
    usual = _spelled(name, getattr(config(), name))
    others = {method: _spelled(name, getattr(getattr(config, method)(), name)) for method in PRESETS.get(config, ())}
    differ = [f"; {method}: {value}" for method, value in others.items() if value != usual]
    return f"Default: {usual}{''.join(differ)}."


def _spelled(name: str, value: Any) -> str:
    """A value as the command line takes it."""
    return f"--{'' if value else 'no-'}{name.replace('_', '-')}" if isinstance(value, bool) else str(value)


def _descriptions(config: type) -> dict[str, str]:
    """What the docstring of a configuration says about each attribute."""
    text = inspect.getdoc(config) or ""
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", words).replace("``", "").replace('"', "") for name, words in found}
