"""Configurations of the ways to learn: every option is stated once, with its range, unit and help.

A configuration is a frozen dataclass whose fields are made by `option`. Checks, the options of the command line, the
docstring and the tables of the documentation all read the fields' metadata, so nothing is said twice.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from stepmask.errors import StepMaskError


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    may_change: bool = False,
    on_command_line: bool = True,
) -> Any:
    """A field of a configuration.

    Args:
        default: The value that holds where none is given.
        help: What the option does, in a sentence or two.
        low: The least number that makes sense; None where there is no limit.
        high: The greatest number that makes sense; None where there is no limit.
        unit: What the number counts or measures; empty where there is none.
        may_change: Whether an interrupted run may go on with another value.
        on_command_line: Whether the command line offers it.
    """
    facts = {"help": help, "low": low, "high": high, "unit": unit}
    return field(default=default, metadata={**facts, "may_change": may_change, "on_command_line": on_command_line})


@dataclass(frozen=True)
class Option:
    """What is known of one option of a configuration: what was given to `option`, and what its field says.

    Attributes:
        name: The name of the field.
        type: int, float, bool or str, or a class; without ``None`` and without the choices.
        choices: The words that it may be; empty where it is no word.
        may_be_none: Whether None is a value of its own.
    """

    name: str
    type: Any
    default: Any
    help: str
    low: float | None
    high: float | None
    unit: str
    choices: tuple[str, ...]
    may_be_none: bool
    may_change: bool
    on_command_line: bool

    @property
    def range(self) -> str:
        """The allowed values in words: ``0 to 10000``, ``random, gumbel``, ``yes or no``."""
        if self.choices:
            return ", ".join(self.choices)
        if self.type is bool:
            return "yes or no"
        if self.low is None or self.high is None:
            return ""
        return f"{_spelled(self.low)} to {_spelled(self.high)}" + (", or none" if self.may_be_none else "")

    def check(self, value: Any) -> None:
        """Raise unless the option may have this value.

        Raises:
            StepMaskError: Names the option, what is allowed, and the value.
        """
        if value is None and self.may_be_none:
            return
        if self.choices and value not in self.choices:
            raise StepMaskError(f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}")
        if self.type in (int, float):
            self._check_number(value)
        if self.type is bool and not isinstance(value, bool):
            raise StepMaskError(f"{self.name} must be True or False, got {value!r}")
        if self.type is str and not isinstance(value, str):
            raise StepMaskError(f"{self.name} must be a word, got {value!r}")
        if self.type is Callable and not callable(value):
            raise StepMaskError(f"{self.name} must be a function, got {type(value).__name__}")
        if isinstance(self.type, type) and issubclass(self.type, Configuration) and not isinstance(value, self.type):
            raise StepMaskError(f"{self.name} must be a {self.type.__name__}, got {type(value).__name__}")

    def _check_number(self, value: Any) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not is_number or not low <= value <= high:
            raise StepMaskError(f"{self.name} must be a number between {low:g} and {high:g}, got {value!r}")
        if self.type is int and not isinstance(value, int):
            raise StepMaskError(f"{self.name} must be a whole number, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Options of one way to learn; a subclass lists them as fields made by `option`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Write the options into the docstring."""
        super().__init_subclass__(**kwargs)
        cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n\n    Attributes:\n{''.join(_documented(cls))}"

    def __post_init__(self) -> None:
        for known in self.options():
            known.check(getattr(self, known.name))

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """All options, in the order in which they are listed."""
        types = typing.get_type_hints(cls)
        return tuple(_option_of(one, types[one.name]) for one in fields(cls))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(one.name for one in fields(cls))

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values, for the provenance of a mask; a function is only said to be given."""
        return {name: _stored(getattr(self, name), lambda function: "given") for name in self.names()}

    def identity(self) -> dict[str, Any]:
        """JSON values that must be the same for an interrupted run to go on."""
        fixed = [one.name for one in self.options() if not one.may_change]
        return {name: _stored(getattr(self, name), _name_of) for name in fixed}


def _documented(cls: type) -> Iterator[str]:
    """A line for the docstring for each option, those of base classes first."""
    found: dict[str, Field] = {}
    for base in reversed(cls.__mro__):
        known = getattr(base, "__dataclass_fields__", {}) if base is not cls else {}
        found |= {**known, **{name: one for name, one in vars(base).items() if isinstance(one, Field)}}
    for name, one in found.items():
        default = "" if one.default is MISSING or callable(one.default) else f" Default: {_shown(one.default)}."
        yield f"        {name}: {one.metadata.get('help', '')}{default}\n"


def _option_of(one: Field, hint: Any) -> Option:
    parts = get_args(hint) if get_origin(hint) in (typing.Union, UnionType) else (hint,)
    plain = [part for part in parts if part is not NoneType]
    kind = plain[0]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        kind = str
    elif get_origin(kind) is not None:  # Callable[[...], ...]
        kind = Callable
    found = {"name": one.name, "type": kind, "default": one.default, "choices": choices}
    return Option(**found, may_be_none=NoneType in parts, **one.metadata)


def _stored(value: Any, of_function: Callable[[Any], Any]) -> Any:
    if isinstance(value, Configuration):
        return {name: _stored(getattr(value, name), of_function) for name in value.names()}
    return of_function(value) if callable(value) else value


def _name_of(function: Any) -> str:
    """What tells one function from another in every process: where it lies in memory does not."""
    function = getattr(function, "func", function)  # of functools.partial
    return getattr(function, "__qualname__", type(function).__qualname__)


def _shown(value: Any) -> str:
    return type(value).__name__ + "()" if isinstance(value, Configuration) else repr(value)


def _spelled(number: float) -> str:
    return f"{number:.3g}" if abs(number) > 1e6 else f"{number:g}"
