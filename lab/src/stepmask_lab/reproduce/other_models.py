"""Lines of Tables 1 and 2 that run another model: one whose channels were pruned, one that was distilled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepmask_lab.method import Subject, Unmasked
from stepmask_lab.reproduce.paper import CONSISTENCY, DIFF_PRUNING
from stepmask_lab.rivals.consistency import student
from stepmask_lab.rivals.diff_pruning import pruned

STUDENT_STEPS = ("1", "2", "4")


@dataclass(frozen=True)
class OtherModel:
    """A line that runs another model.

    Attributes:
        method: That runs it.
        record: How it was trained.
    """

    method: Unmasked
    record: dict[str, Any]

    @property
    def train_seconds(self) -> float:
        """That training took, on one core."""
        return self.record["core_hours"] * 3600


def other_models(name: str) -> list[OtherModel]:
    """What the laboratory has been trained of a reference model; nothing of other models."""
    found = []
    if name in pruned.names():
        record = _record(pruned.WEIGHTS, name)
        load = pruned.load_pruned
        found.append(OtherModel(_running(DIFF_PRUNING, [f"{record['ratio']:g}"], name, load, of_steps=False), record))
    if name in student.names():
        method = _running(CONSISTENCY, list(STUDENT_STEPS), name, student.load_student, of_steps=True)
        found.append(OtherModel(method, _record(student.WEIGHTS, name)))
    return found


def _record(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _running(method: str, settings: list[str], name: str, load: Callable[[str], Any], *, of_steps: bool) -> Unmasked:
    """A method that runs another pipeline; its settings are numbers of steps, or the steps are the subject's."""

    @contextmanager
    def running(subject: Subject, setting: str) -> Iterator[tuple[Any, int]]:
        yield load(name), int(setting) if of_steps else subject.steps

    return Unmasked(method, lambda subject: settings, running)
