"""Progress bars of learning: how far, how well, at what cost."""

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


@contextlib.contextmanager
def show_rounds(visible: bool, total: int) -> Iterator[Callable[[Any], None]]:
    """Yield a function that takes a `Round` after each round of a search."""
    columns = (
        TextColumn("selecting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("at {task.fields[target]}: best {task.fields[best]}  last {task.fields[last]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as bar:
        task = bar.add_task("selecting", total=total, target="-", best="measuring schedules", last="-")

        def show(done: Any) -> None:
            best = "none yet" if done.best is None else f"{done.best.psnr:.1f} dB at {done.best.cost:.1%}"
            last = f"{done.true:.1f} dB (predicted {done.predicted:.1f})"
            bar.update(task, advance=1, target=f"{done.level:.0%}", best=best, last=last)

        yield show
