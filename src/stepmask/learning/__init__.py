"""Learning masks for frozen models, inside the user's own pipeline. Begin with `entry`.

`learn` makes a `Task` once, puts it into a `Job` with what is asked for, and hands the job to a registered `Learner`.
Two ways to learn come with stepmask: `end_to_end` selects by the final image, `paper` is arXiv 2603.19939 as we read
it. They know nothing of each other; what both need lies beside them. A plugin registers more.

Learning imports torch, its configurations do not: the command line lists their options without waiting for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepmask.learning.configuration import Configuration, Option, option
from stepmask.learning.end_to_end.config import EndToEnd, Tuning
from stepmask.learning.goals import Goals
from stepmask.learning.paper.config import Paper
from stepmask.learning.registry import Learner, learner_of, learners, register

if TYPE_CHECKING:
    from stepmask.learning.end_to_end.fit import fit_gains
    from stepmask.learning.entry import learn, learn_family
    from stepmask.learning.job import Job

__all__ = [
    "Configuration",
    "EndToEnd",
    "Goals",
    "Job",
    "Learner",
    "Option",
    "Paper",
    "Tuning",
    "fit_gains",
    "learn",
    "learn_family",
    "learner_of",
    "learners",
    "option",
    "register",
]

_WHERE = {"learn": "entry", "learn_family": "entry", "fit_gains": "end_to_end.fit", "Job": "job"}

register(
    Learner(
        name="end-to-end",
        configuration=EndToEnd,
        learn="stepmask.learning.end_to_end.learner:learn",
        summary="selects by the final image what each block does at each step: compute, hold its last value, or "
        "forecast from its last two.",
        goals=frozenset(
            {"target_macs", "target_speedup", "min_psnr", "targets", "max_cache_bytes", "max_minutes", "start"}
        ),
        shares=True,
        nested=True,
        uneven=True,
    )
)
register(
    Learner(
        name="paper",
        configuration=Paper,
        learn="stepmask.learning.paper.learner:learn",
        summary="learns from the error of each step alone, as arXiv 2603.19939 (as we read it); blocks compute or "
        "hold.",
        needs_target=False,
    )
)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"stepmask.learning.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'stepmask.learning' has no attribute {name!r}")
