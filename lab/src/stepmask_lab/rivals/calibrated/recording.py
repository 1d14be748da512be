"""One pass over the full run: how much each site's value changes over one, two and three steps.

Only these numbers are kept, and of values the last three of each site while the run goes on. What is made of the
numbers is said by `smoothcache` and `block_caching`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.graph import BlockGraph
from stepmask.learning.budget import Budget
from stepmask.liveness import make_plan
from stepmask.mask import StepMask
from stepmask.runtime.cache import Cache
from stepmask.runtime.position import Position
from stepmask.runtime.task import Task
from stepmask.values import Value, take_apart
from stepmask_lab.rivals.watched_run import WatchedRun

LOOKBACK = 3
"""Steps over which changes are recorded: SmoothCache skips so many at most."""


@dataclass(frozen=True, eq=False)
class Recording:
    """What a full run tells a calibrated schedule.

    Attributes:
        changes: (T, B, 3): ``[t, b, j]`` is the L1 norm of the change of site b from step t - 1 - j to step t over
            that of its value at t, mean over streams and batches; infinite where there is no such step, or no number.
        graph: The B sites.
        timesteps: T timesteps of the run.
        scheduler: Its identity.
        budget: Costs of masks, by MACs.
        whole: The model with all its sites, and what they cost: what runs under a mask.
        facts: What goes into the provenance of masks: images, seeds, denoiser calls, seconds.
    """

    changes: np.ndarray
    graph: BlockGraph
    timesteps: tuple[float, ...]
    scheduler: dict[str, Any]
    budget: Budget
    whole: Budget
    facts: dict[str, Any]

    @classmethod
    def of(cls, run: WatchedRun, changes: np.ndarray, whole: Task) -> Recording:
        """What was recorded of a run, and what it took; `whole` is its task with all sites."""
        budgets = (Budget(one.graph, one.costs) for one in (run.task, whole))
        return cls(changes, run.task.graph, run.timesteps, whole.scheduler, *budgets, run.facts())

    def mask(self, compute: np.ndarray, **provenance: Any) -> StepMask:
        """A mask for the recorded run; its provenance has ``macs`` of the plan that runs."""
        mask = StepMask(
            compute=compute,
            sites=self.graph.names,
            timesteps=self.timesteps,
            scheduler=self.scheduler,
            graph=self.graph.fingerprint,
        )
        macs = round(self.whole.costs.fraction(make_plan(mask, self.whole.graph)), 6)
        return replace(mask, provenance={**provenance, "macs": macs, **self.facts})


def record(
    pipe: Any,
    num_inference_steps: int = 50,
    *,
    scheduler: Any | None = None,
    num_images: int = 8,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
) -> Recording:
    """Run the full model once on a batch, and record how its sites change from step to step.

    Args:
        pipe: A diffusers pipeline; or a denoiser with its `scheduler`.
        num_inference_steps: Of the runs that masks will be used for.
        scheduler: For a bare denoiser.
        num_images: Images in the batch; SmoothCache calibrates on 10.
        seed: Of noise and conditions.
        call_kwargs: Arguments for the pipeline's call.
        conditions: Prompts or class numbers, as for `stepmask.learn`.

    Raises:
        StepMaskError: An option makes no sense, or a mask is applied to the model.
    """
    task = Task(
        pipe, num_inference_steps, scheduler=scheduler, seed=seed, call_kwargs=call_kwargs, conditions=conditions
    )
    run = WatchedRun(task.innermost, num_images)
    recorder = _Recorder(run.task.graph)
    run(recorder.policy, recorder)
    return Recording.of(run, recorder.changes(len(run.timesteps)), task)


class _Recorder:
    """Watches a run: compares each value with those of the three steps before."""

    def __init__(self, graph: BlockGraph) -> None:
        self._blocks, self._shape = frozenset(graph.blocks), len(graph)
        self._position: Position | None = None
        self._before: dict[tuple[int, int], deque[list[Tensor]]] = {}
        self._found: list[tuple[int, int, int]] = []
        self._ratios: list[Tensor] = []

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        self._position = position
        return forward()

    def policy(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """Compute, as the full run does, and look."""
        value = compute()
        if site in self._blocks:
            self._compare(step, site, [tensor.detach() for tensor in take_apart(value)[0]])
        return value

    def _compare(self, step: int, site: int, value: list[Tensor]) -> None:
        row, stream, _ = self._position
        before = self._before.setdefault((stream, site), deque(maxlen=LOOKBACK))
        if step == 0:  # the stream begins, or begins anew with another shape
            before.clear()
        size = _l1(value)
        for age, older in enumerate(before):
            change = _l1([now.float() - then.float() for now, then in zip(value, older, strict=True)])
            self._found.append((row, site, age))
            self._ratios.append(change / size.clamp_min(torch.finfo(torch.float32).tiny))
        before.appendleft(value)

    def changes(self, num_rows: int) -> np.ndarray:
        """(T, B, 3) mean ratios."""
        total = np.zeros((num_rows, self._shape, LOOKBACK))
        count = np.zeros_like(total)
        if self._ratios:
            index = tuple(np.array(self._found).T)
            np.add.at(total, index, torch.stack(self._ratios).double().cpu().numpy())
            np.add.at(count, index, 1)
        self._before.clear()
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / count
        return np.where(np.isfinite(mean), mean, np.inf)


def _l1(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.float().abs().sum() for tensor in tensors]).sum()
