"""Jobs for learners, as `stepmask.learn` makes them, and an exception that stands for a user's interrupt."""

from collections.abc import Callable
from typing import Any

from stepmask.learning import Configuration, EndToEnd, Goals, Job
from stepmask.learning.registry import learner_of
from stepmask.runtime.task import Task


class Stop(Exception):
    """Raised by a callback, in the place of a user's interrupt."""


def stop_after(count: int) -> Callable[[Any], None]:
    """A callback that lets `count` reports pass, the last of them with an exception."""
    left = [count]

    def callback(report: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    return callback


def job_for(
    pipe: Any,
    steps: int,
    config: Configuration | None = None,
    *,
    call_kwargs: dict | None = None,
    seed: int = 0,
    **goals: Any,
) -> Job:
    """What a learner gets to see; for `EndToEnd` where no configuration is given."""
    config = config or EndToEnd()
    learner, task = learner_of(config), Task(pipe, steps, seed=seed, call_kwargs=call_kwargs)
    goals = Goals(**goals, needs_target=learner.needs_target)
    return Job(task=task if learner.nested else task.innermost, goals=goals, config=config, method=learner.name)
