"""Which cases of a test run in the gate: variations of what others hold already are slow."""

from collections.abc import Iterable
from typing import Any

import pytest


def in_gate(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Parameters of which those that are not `kept` are slow.

    Raises:
        ValueError: One that is kept is none of the values.
    """
    values = list(values)
    unknown = [one for one in kept if one not in values]
    if unknown:
        raise ValueError(f"{unknown} are no cases; there are {values}")
    return [value if value in kept else _slow(value) for value in values]


def _slow(value: Any) -> Any:
    """A tuple stands for several parameters."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
