"""What users ask for, as budgets of plans: shares of the MACs, of measured latencies, or of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from stepmask.cost import CostTable
from stepmask.errors import StepMaskError, TargetError
from stepmask.learning.budget import Budget
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.goals import Goals
from stepmask.learning.processes import Processes
from stepmask.runtime.task import Task

PSNR_LADDER = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15)
"""Costs that a search for the cheapest mask of a PSNR goes through."""


def shares_asked(goals: Goals, budget: Budget, num_rows: int) -> list[float]:
    """Shares of a budget's cost, most expensive first; none where only a speed-up is asked for.

    Raises:
        TargetError: One cannot be reached in so many steps.
    """
    if goals.min_psnr is not None:
        floor = budget.floor(num_rows)
        shares = [share for share in PSNR_LADDER if share > 1.1 * floor] or [1.0]
    else:
        asked = goals.targets or (goals.target_macs,)
        shares = sorted({share for share in asked if share is not None}, reverse=True)
    for share in shares:
        budget.check_target(share, num_rows)
    return shares


def budget_in_time(goals: Goals, task: Task, costs: CostTable, max_cache_bytes: int | None) -> Budget:
    """The budget in milliseconds of a speed-up; where MACs are asked for too, in both.

    Args:
        goals: With a ``target_speedup``.
        task: What is sped up.
        costs: With latencies.
        max_cache_bytes: Most bytes per image that a plan may keep.

    Raises:
        TargetError: The speed-up cannot be reached.
    """
    num_rows, speedup = task.shape[0], goals.target_speedup
    limits = {"latency": 1 / speedup}
    floor = Budget(task.graph, costs, limits, course=task.course).floor(num_rows)
    if limits["latency"] < floor:
        raise TargetError(
            f"target_speedup={speedup:g} cannot be reached: computing only the first of {num_rows} steps makes the "
            f"denoiser {1 / floor:.2f} times as fast; ask for less"
        )
    if goals.target_macs is not None:
        limits["macs"] = goals.target_macs
    return Budget(task.graph, costs, limits, max_cache_bytes, task.course)


def timed_costs(task: Task, batch_size: int, checkpoint: Checkpoint, processes: Processes, key: str) -> CostTable:
    """Costs with latencies of so many images at once, those of the first process for all.

    Those of an interrupted search are kept, under `key`, for measured again they would differ.

    Raises:
        StepMaskError: There is no room for so many.
    """

    def measured() -> CostTable:
        try:
            return task.timed_costs(batch_size)
        except torch.OutOfMemoryError as error:
            raise StepMaskError(
                f"there is no room for {batch_size} images at once, for which the latencies of the sites are to be "
                "measured: give speed_batch_size the number of images that you sample at once"
            ) from error

    known = checkpoint.arrays.get(key)
    if known is None:
        cost = processes.of_first(measured)
        known = np.append(cost.latency_ms, cost.always_latency_ms).astype(np.float64)
        checkpoint.arrays[key] = known
    return replace(task.costs, latency_ms=known[:-1], always_latency_ms=float(known[-1]))
