"""Job: one call of `stepmask.learn`, as a way to learn gets to see it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.configuration import Configuration
from stepmask.learning.effort import Effort
from stepmask.learning.goals import Goals
from stepmask.learning.processes import Processes, current
from stepmask.printing import console
from stepmask.runtime.task import Task
from stepmask.words import duration

SECONDS_BETWEEN_LINES = 30
"""Where there is no terminal for a progress bar."""


class Spent(ProgressColumn):
    """How long it has taken, of how long it was said to take.

    Args:
        seconds: What was said; 0 where nothing was.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._of = f" of about {duration(seconds)}" if seconds else ""

    def words(self, elapsed: float) -> str:
        """So many seconds in words."""
        return duration(elapsed) + self._of

    def render(self, task: Any) -> Text:
        """What stands at the end of the bar."""
        return Text(self.words(task.elapsed or 0.0), style="progress.elapsed")


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
    def reporting(
        self, total: int, doing: str, first: str = "starting", seconds: float = 0.0
    ) -> Iterator[Callable[[Any], None]]:
        """Show a progress bar for a while; yields a function that takes a report after each step of the work.

        Where there is no terminal, a line now and then says how far it is.

        Args:
            total: Number of reports to come, at most.
            doing: What is done, in a word.
            first: What is said before the first report.
            seconds: How long it takes, about; 0 where that is not known.
        """
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}", markup=False))
        spent, lines = Spent(seconds), console()
        with Progress(*columns, spent, console=lines, disable=not (self._shown and lines.is_terminal)) as bar:
            task = bar.add_task(doing, total=total, now=first)
            began = said = time.monotonic()
            done, last = 0, ""

            def tell(report: Any) -> None:
                nonlocal said, done, last
                done, last = done + 1, str(report)
                bar.update(task, advance=1, now=last)
                now = time.monotonic()
                if not lines.is_terminal and now - said > SECONDS_BETWEEN_LINES:
                    said = now
                    self.say(f"{doing} {done}/{total}: {last}; {spent.words(now - began)}")
                if self.callback is not None and self.processes.is_first:
                    self.callback(report)

            yield tell
        if not lines.is_terminal:
            self.say(f"{doing} took {duration(time.monotonic() - began)}" + (f": {last}" if last else ""))
