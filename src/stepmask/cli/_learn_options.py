"""Command line options made from the fields of `LearnConfig`: name, default and help are written once, there."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, Literal

import typer

from stepmask.learning.config import LearnConfig

PANEL = "How it learns (LearnConfig)"


def with_learn_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace the ``**options`` of a verb by one option per field of `LearnConfig`."""
    signature = inspect.signature(verb, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    made = list(_parameters())

    @wraps(verb)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        verb(*args, **kwargs)

    del wrapper.__wrapped__
    wrapper.__signature__ = signature.replace(parameters=[*kept, *made])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in (*kept, *made)}
    return wrapper


def _parameters() -> typing.Iterator[inspect.Parameter]:
    types, texts = typing.get_type_hints(LearnConfig), _descriptions()
    for field in fields(LearnConfig):
        type_, choices = types[field.name], None
        if typing.get_origin(type_) is Literal:
            type_, choices = str, "|".join(typing.get_args(type_))
        option = typer.Option(help=texts.get(field.name), metavar=choices, rich_help_panel=PANEL)
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=Annotated[type_, option]
        )


def _descriptions() -> dict[str, str]:
    """What the docstring of `LearnConfig` says about each attribute."""
    text = inspect.getdoc(LearnConfig) or ""
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", words).replace("``", "").replace('"', "") for name, words in found}
