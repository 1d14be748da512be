"""Bytes, seconds and names that are nearly right in words, for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def size(count: float) -> str:
    """Bytes: ``31 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def duration(seconds: float) -> str:
    """Seconds: ``40 minutes``."""
    for unit, most in (("seconds", 90), ("minutes", 90 * 60)):
        if seconds < most:
            return f"{seconds / (60 if unit == 'minutes' else 1):.2g} {unit}"
    return f"{seconds / 3600:.2g} hours"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is most like one that there is not, as the end of an error; empty where none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
