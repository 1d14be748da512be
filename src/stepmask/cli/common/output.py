"""Where results go, checked before long work begins, so that no hour is lost to a missing folder; and progress bars."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stepmask.cli.common.app import stderr
from stepmask.errors import StepMaskError
from stepmask.files import check_target, is_folder, ready_folder, write_atomically


def ready_file(path: Path) -> Path:
    """Check that a file can be written where `path` says; the file itself is left alone.

    Raises:
        StepMaskError: It is a folder, or its folder cannot be written to.
    """
    if is_folder(path):
        raise StepMaskError(f"{path} is a folder: give the name of a file in it, {path / 'mask.json'} for example")
    if check_target(path):
        ready_folder(path.parent)
    return path


def write_json(path: Path, content: Any) -> None:
    """Write JSON values, whole or not at all; null for numbers that JSON lacks."""
    write_atomically(path, json.dumps(_storable(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _storable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def runs_bar(words: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes the number of runs done and to do; the bar vanishes from stderr at the end."""
    runs, left = TextColumn("runs"), TextColumn("left")
    columns = (BarColumn(), MofNCompleteColumn(), runs, TimeElapsedColumn(), left, TimeRemainingColumn())
    with Progress(TextColumn(words), *columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, todo: bar.update(task, completed=done, total=todo)
