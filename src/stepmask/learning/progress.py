"""The learner's progress bar: trajectories, loss, and what the plan costs now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def show_progress(visible: bool, total: int) -> Iterator[Callable[[Any], None]]:
    """Yield a function that takes a `LearnProgress` after each trajectory."""
    columns = (
        TextColumn("learning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  MACs {task.fields[macs]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as bar:
        task = bar.add_task("learning", total=total, loss="-", macs="-")

        def show(report: Any) -> None:
            bar.update(task, completed=report.trajectory, loss=f"{report.loss:.4f}", macs=f"{report.macs:.1%}")

        yield show
