"""Job: one call of `stepmask.learn`, as a way to learn gets to see it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.configuration import Configuration
from stepmask.learning.effort import Effort
from stepmask.learning.goals import Goals
from stepmask.learning.processes import Processes, current
from stepmask.printing import console
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
        callback: Called with each report, in the first process.
        progress: Whether to show a progress bar.
        effort: Counts denoiser calls and seconds.
        processes: Those that learn together: the first one keeps the checkpoint and tells how it goes.
    """

    task: Task
    goals: Goals
    config: Configuration
    method: str
    resume: str | Path | None = None
    callback: Callable[[Any], None] | None = None
    progress: bool = False
    effort: Effort = field(default_factory=Effort)
    processes: Processes = field(default_factory=current)

    def checkpoint(self, **more: Any) -> Checkpoint:
        """The state to go on from, or a fresh one. Call it once, after everything that can be refused was.

        Args:
            more: JSON values that must be the same too when the run goes on.

        Raises:
            StepMaskError: The file cannot be used, or another process learns something else.
        """
        goals = self.goals.to_dict()
        identity = {
            "method": self.method,
            "config": self.config.identity(),
            "goals": {name: goal for name, goal in goals.items() if name != "max_minutes"},
            **self.task.identity(),
            **more,
        }
        self.processes.check_agreement({**identity, "config": self.config.to_dict(), "goals": goals})
        checkpoint = Checkpoint(self.resume if self.processes.is_first else None, identity, self.effort)
        state = self.processes.of_first(lambda: (checkpoint.arrays, checkpoint.values, checkpoint.resumed))
        checkpoint.arrays, checkpoint.values, checkpoint.resumed = state
        return checkpoint

    def say(self, what: str) -> None:
        """Tell whoever watches the progress bar something that stays to be read."""
        if self._shown:
            console().print(what, soft_wrap=True)

    @property
    def _shown(self) -> bool:
        return self.progress and self.processes.is_first

    @contextlib.contextmanager
    def reporting(self, total: int, doing: str, first: str = "starting") -> Iterator[Callable[[Any], None]]:
        """Show a progress bar for a while; yields a function that takes a report after each step of the work.

        Args:
            total: Number of reports to come, at most.
            doing: What is done, in a word.
            first: What is said before the first report.
        """
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}", markup=False))
        with Progress(*columns, TimeRemainingColumn(), console=console(), disable=not self._shown) as bar:
            task = bar.add_task(doing, total=total, now=first)

            def tell(report: Any) -> None:
                bar.update(task, advance=1, now=str(report))
                if self.callback is not None and self.processes.is_first:
                    self.callback(report)

            yield tell
