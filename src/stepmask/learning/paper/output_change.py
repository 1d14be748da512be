"""How fast the output of the original model changes over a run: Eq. 9 of arXiv 2603.19939."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from stepmask.inspection.describe import Description
from stepmask.learning.interception import intercepted
from stepmask.learning.paper.losses import relative_norm
from stepmask.runtime.cache import Cache
from stepmask.runtime.position import Position
from stepmask.runtime.task import Task
from stepmask.values import Value


class OutputRecorder:
    """Runs the original model of a description and keeps what it returns."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self.outputs: dict[tuple[int, int], Any] = {}
        """By row and stream, on the host."""

    def policy(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """Compute, as the full run does."""
        return compute()

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        """Run a call and keep its output."""
        output = forward()
        self.outputs[position.row, position.stream] = tree_map_only(Tensor, Tensor.cpu, output)
        return output

    def changes(self) -> Tensor:
        """(T,) relative change of the first stream's output since the step before; 0 at step 0."""
        rows = 1 + max(row for row, _ in self.outputs)
        return torch.tensor([0.0] + [self._change(row) for row in range(1, rows)])

    def _change(self, row: int) -> float:
        """The change from one row to the next; 0 where the outputs cannot be compared."""
        if (row - 1, 0) not in self.outputs or (row, 0) not in self.outputs:
            return 0.0
        before, now = (self.description.used_output(self.outputs[at, 0]) for at in (row - 1, row))
        return relative_norm(now - before, now).mean().item() if now.shape == before.shape else 0.0


def output_changes(task: Task, call: Callable[[], Tensor]) -> Tensor:
    """(T,) relative change of the original model's output since the step before (Eq. 9); 0 at step 0.

    `call` runs the task's pipeline from fixed noise.
    """
    recorder = OutputRecorder(task.description)
    with intercepted(task.pipe, task.graph, recorder.policy, recorder):
        call()
    return recorder.changes()
