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
    with _bar(visible, total, "learning", "starting") as advance:
        yield lambda report: advance(f"loss {report.loss:.4f}  MACs {report.macs:.1%}")


@contextlib.contextmanager
def show_rounds(visible: bool, total: int) -> Iterator[Callable[[Any], None]]:
    """Yield a function that takes a `Round` after each round of a search."""
    with _bar(visible, total, "selecting", "measuring schedules") as advance:

        def show(done: Any) -> None:
            best = "none yet" if done.best is None else f"{done.best.psnr:.1f} dB at {done.best.cost:.1%}"
            last = "no better" if done.true != done.true else f"{done.true:.1f} dB"
            advance(f"at {done.level:.0%}: best {best}  last {last}")

        yield show


@contextlib.contextmanager
def show_generations(visible: bool, total: int) -> Iterator[Callable[[Any], None]]:
    """Yield a function that takes a `Generation` after each of a genetic search."""
    with _bar(visible, total, "evolving", "measuring the first generation") as advance:
        yield lambda done: advance(
            "none within the target yet" if done.psnr != done.psnr else f"best {done.psnr:.1f} dB at {done.macs:.1%}"
        )


@contextlib.contextmanager
def show_iterations(visible: bool, total: int) -> Iterator[Callable[[Any], None]]:
    """Yield a function that takes an `Iteration` after each run through the whole chain."""
    with _bar(visible, total, "learning", "starting") as advance:
        yield lambda done: advance(f"consistency loss {done.consistency:.4f}  mean gate {done.mean_gate:.3f}")


@contextlib.contextmanager
def _bar(visible: bool, total: int, words: str, first: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that advances a bar by one and says how it stands."""
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not visible) as bar:
        task = bar.add_task(words, total=total, now=first)
        yield lambda now: bar.update(task, advance=1, now=now)
