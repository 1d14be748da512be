"""Progress bars, on stderr, that vanish when the work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stepmask.cli.common.app import stderr


@contextmanager
def runs_bar(words: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes the number of runs done and the number to do."""
    columns = (
        TextColumn(words),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, todo: bar.update(task, completed=done, total=todo)
