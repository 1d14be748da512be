"""What makes the state of an interrupted run unusable, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from stepmask.errors import StepMaskError

Run = Literal["learning run", "search"]

SHOWN = 4
"""Of a dictionary, at most so many differences are named."""

_ADVICE = "delete it to begin anew, or give another file"


def damaged(path: str | Path, run: Run, error: Exception) -> StepMaskError:
    """What to raise where a file holds no state."""
    return StepMaskError(f"{path} is no state of an interrupted {run} ({error}): {_ADVICE}")


def check_identity(path: str | Path, run: Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless a state is of the run that is to go on.

    Args:
        path: Where it was read.
        run: What it is the state of.
        before: JSON values that it was saved with.
        now: Those of the run; what it lacks is not looked at.

    Raises:
        StepMaskError: They differ.
    """
    now = json.loads(json.dumps(now))
    differ = [key for key in now if before.get(key) != now[key]]
    if differ:
        what = "; ".join(_difference(key, before.get(key), now[key]) for key in differ)
        raise StepMaskError(f"{path} belongs to another {run} ({what}): {_ADVICE}")


def _difference(name: str, before: Any, now: Any) -> str:
    """In words; of dictionaries what differs in them."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(_difference(f"{name}.{key}", before.get(key), now.get(key)) for key in keys[:SHOWN])
    return f"{name} was {before!r}, now {now!r}"
