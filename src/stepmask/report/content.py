"""What a report says: studies of one model each, with the entries that were measured and the maps of their masks.

Plain values, which `stepmask.report.page` writes into the page. Knows no files and no models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MACS = "macs"
"""Key of the share of the full run's MACs, which budgets are given in."""

Facts = Sequence[tuple[str, str]]
"""Names and values to list, both texts."""


@dataclass(frozen=True)
class Axis:
    """A number that entries have, to draw them by.

    Attributes:
        key: Its name in `Entry.values`.
        label: What people call it.
        role: Whether it says what an entry costs, or what it is worth.
        form: How it is written: a share as percents, a speed-up as ``1.9x``, bytes in MiB, decibels, or a number.
        better: Whether more or less of it is better.
    """

    key: str
    label: str
    role: Literal["cost", "quality"]
    form: Literal["share", "times", "bytes", "db", "number"] = "number"
    better: Literal["higher", "lower"] = "higher"


COST = Axis(MACS, "MACs, of the full run", "cost", "share", "lower")
PSNR = Axis("psnr", "PSNR against the full run", "quality", "db")


@dataclass(frozen=True)
class Method:
    """A way to save, with the colours that it is drawn in on a light and on a dark ground."""

    name: str
    colour: str
    dark: str
    ours: bool = False


OURS = Method("learned mask", "#0072b2", "#5ab4f0", ours=True)


@dataclass(frozen=True)
class Entry:
    """One setting of a method, as it was measured.

    Attributes:
        method: Its name.
        setting: Which one, in words.
        values: Numbers by the key of their axis; None for those that are not known.
        interval: The 95% interval of its PSNR.
        map: What `mask_map` makes of its mask; None where there is none.
        picture: PNG of its first images side by side, of the same noise as `Study.picture`.
        facts: What else is known.
    """

    method: str
    setting: str
    values: Mapping[str, float | None]
    interval: tuple[float, float] | None = None
    map: Mapping[str, Any] | None = None
    picture: bytes | None = None
    facts: Facts = ()


@dataclass(frozen=True)
class Study:
    """Entries of one model and number of steps.

    Attributes:
        name: What it is about.
        entries: At least one.
        methods: In the order of lists.
        axes: What entries can be drawn by. Without any there is no trade-off to show.
        slack: By which share of it an entry may go beyond a budget that it is shown for.
        picture: PNG of the full run's first images side by side.
        num_pictures: How many images a picture holds.
        facts: How it was measured.
    """

    name: str
    entries: Sequence[Entry]
    methods: Sequence[Method] = (OURS,)
    axes: Sequence[Axis] = ()
    slack: float = 0.0
    picture: bytes | None = None
    num_pictures: int = 1
    facts: Facts = ()


@dataclass(frozen=True)
class Report:
    """A page: its title, what it was made from, and its studies, at least one."""

    title: str
    source: str
    studies: Sequence[Study] = field(default_factory=tuple)


def facts_of(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Provenance, or any other JSON object, as names and values; those of an object within it go by both names."""
    found: list[tuple[str, str]] = []
    for name, value in record.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            found += facts_of(value, f"{label} · ")
        elif value is not None:
            found.append((label, _words(value)))
    return found


def is_number(value: Any) -> bool:
    """Whether a value from a file is a number that can be drawn: no truth value, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


LONGEST = 12
"""Of a list with more values than these, the first and the last are named."""


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        whole = 1e4 <= abs(value) < 1e15 and value == int(value)
        return f"{int(value):,}".replace(",", "\u202f") if whole else f"{value:.6g}"
    if isinstance(value, list | tuple):
        if len(value) > LONGEST:
            return f"{_words(value[0])} to {_words(value[-1])} ({len(value)} values)"
        return ", ".join(map(_words, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
