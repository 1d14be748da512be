"""Job: one call of `stepmask.learn`, as a way to learn gets to see it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.configuration import Configuration
from stepmask.learning.effort import Effort
from stepmask.learning.goals import Goals
from stepmask.runtime.task import Task


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be learned, and who is told how it goes.

    Attributes:
        task: The pipeline to be learned on, its steps, conditions and seed.
        goals: What the mask shall reach.
        config: Options of the way to learn.
        method: Name of the way to learn.
        resume: File of the checkpoint; None keeps the state in memory.
        callback: Called with each report.
        progress: Whether to show a progress bar.
        effort: Counts denoiser calls and seconds.
    """

    task: Task
    goals: Goals
    config: Configuration
    method: str
    resume: str | Path | None = None
    callback: Callable[[Any], None] | None = None
    progress: bool = False
    effort: Effort = field(default_factory=Effort)

    def checkpoint(self, **more: Any) -> Checkpoint:
        """The state to go on from, or a fresh one. Call it once, after everything that can be refused was.

        Args:
            more: JSON values that must be the same too when the run goes on.
        """
        identity = {
            "method": self.method,
            "config": self.config.identity(),
            "goals": self.goals.to_dict(),
            **self.task.identity(),
            **more,
        }
        return Checkpoint(self.resume, identity, self.effort)

    @contextlib.contextmanager
    def reporting(self, total: int, doing: str, first: str = "starting") -> Iterator[Callable[[Any], None]]:
        """Show a progress bar for a while; yields a function that takes a report after each step of the work.

        Args:
            total: Number of reports to come, at most.
            doing: What is done, in a word.
            first: What is said before the first report.
        """
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
        console = Console(stderr=True)
        with Progress(*columns, TimeRemainingColumn(), console=console, disable=not self.progress) as bar:
            task = bar.add_task(doing, total=total, now=first)

            def tell(report: Any) -> None:
                bar.update(task, advance=1, now=str(report))
                if self.callback is not None:
                    self.callback(report)

            yield tell
