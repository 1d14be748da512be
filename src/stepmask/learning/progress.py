"""The progress bar of learning: how far, how well, at what cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(visible: bool, total: int, doing: str, first: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that advances the bar by one and says how things stand.

    Args:
        visible: Whether the bar is shown.
        total: What it counts to.
        doing: What stands before it.
        first: What stands behind it at the beginning.
    """
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not visible) as bar:
        task = bar.add_task(doing, total=total, now=first)
        yield lambda now: bar.update(task, advance=1, now=now)
