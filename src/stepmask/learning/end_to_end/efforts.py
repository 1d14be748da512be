"""Efforts: the options under which a search takes less and less time, by what is missed least."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stepmask.learning.end_to_end.config import EndToEnd

EFFORTS: tuple[dict[str, Any], ...] = (
    {"rounds": 2}, {"rounds": 1, "shrink": 0.2}, {"num_moves": 6}, {"gains": 20}, {"rounds": 0, "shrink": 0.35},
    {"coarse": True}, {"num_moves": 3}, {"gains": 10}, {"num_moves": 0, "num_held_back": 8},
)  # fmt: skip
"""What is given up for time, one after the other. Each further round wins less than the one before, at the price of a
round; key steps, and the gains of their forecasts, win most for the least time, and go last."""


def efforts(config: EndToEnd) -> Iterator[EndToEnd]:
    """The options, then those that take less and less time."""
    yield config
    for given_up in EFFORTS:
        if "coarse" in given_up and config.coarse is not None:
            continue
        changed = {
            name: value if name == "coarse" else (max if name == "shrink" else min)(getattr(config, name), value)
            for name, value in given_up.items()
        }
        config = replace(config, **changed)
        yield config


def changes(config: EndToEnd, asked: EndToEnd) -> dict[str, Any]:
    """Options that efforts may change, where they differ from those asked for."""
    names = {name: None for given_up in EFFORTS for name in given_up}
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(asked, name)}
