"""Keeps the best mask found: starts from a regular schedule, takes what learning proposes only where it helps.

The learner's estimates say which cells to exchange; whether the exchange helps is measured on the final image, on noise
that the estimates have not seen. The size of the exchanges adapts: larger after a success, smaller after a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.graph import BlockGraph
from stepmask.inspection.registry import denoiser_of
from stepmask.learning.budget import Budget
from stepmask.learning.per_step.state import LearnerState
from stepmask.learning.riding import frozen
from stepmask.liveness import rows_of
from stepmask.mask import StepMask
from stepmask.runtime.apply import apply
from stepmask.schedules import deepcache, fora

MARGIN = 0.03
"""A schedule may cost so much more than the target to be started from: a few cells less make it fit."""

FIRST_SLACK, LEAST_SLACK, MOST_SLACK = 0.04, 0.005, 0.1
"""Size of an exchange as a share of the full run's cost."""


class Search:
    """Local search on the true error, with proposals from per-step estimates.

    Args:
        pipe: What samples.
        graph: Its block graph.
        budget: Costs of plans.
        target: Share of the full run's cost.
        timesteps: T timesteps of a run.
        call: Runs `pipe` on the noise that proposals are judged by, and returns the images (N, C, H, W).
    """

    def __init__(
        self,
        pipe: Any,
        graph: BlockGraph,
        budget: Budget,
        target: float,
        timesteps: Sequence[float],
        call: Callable[[], Tensor],
    ) -> None:
        self._pipe, self._graph, self._budget, self._target = pipe, graph, budget, target
        self._timesteps, self._call = timesteps, call
        self._full: Tensor | None = None

    def start(self, state: LearnerState) -> None:
        """Put the best schedule within the budget into the state as ``best``."""
        worth = state.tensors["importance"][:, None].numpy() * self._budget.site_share
        tables = [self._budget.exchange(table, worth, self._target, slack=0.0) for table in self._schedules()]
        ranked = [(self.psnr(table), index) for index, table in enumerate(tables)]
        psnr, index = max(ranked)
        state.tensors |= {
            "best": torch.from_numpy(tables[index].copy()),
            "best_psnr": torch.tensor(psnr, dtype=torch.float64),
            "slack": torch.tensor(FIRST_SLACK, dtype=torch.float64),
        }

    def improve(self, state: LearnerState, benefit: np.ndarray) -> np.ndarray:
        """Propose one exchange, keep it if it helps, and return the best table (T, B)."""
        best, slack = state.tensors["best"].numpy(), state.tensors["slack"].item()
        proposal = self._budget.exchange(best, benefit, self._target, slack)
        if np.array_equal(proposal, best):
            slack = min(1.5 * slack, MOST_SLACK)
        else:
            psnr = self.psnr(proposal)
            if psnr > state.tensors["best_psnr"].item():
                state.tensors["best"] = torch.from_numpy(proposal.copy())
                state.tensors["best_psnr"] = torch.tensor(psnr, dtype=torch.float64)
                slack = min(1.25 * slack, MOST_SLACK)
            else:
                slack = max(0.6 * slack, LEAST_SLACK)
        state.tensors["slack"] = torch.tensor(slack, dtype=torch.float64)
        return state.tensors["best"].numpy()

    def psnr(self, compute: np.ndarray) -> float:
        """Mean PSNR in dB of the images under a table (T, B) against the full run."""
        mask = StepMask(compute=compute, sites=self._graph.names, timesteps=self._timesteps)
        with frozen(denoiser_of(self._pipe)):
            if self._full is None:
                self._full = self._call()
            with apply(self._pipe, mask):
                images = self._call()
        error = (images - self._full).flatten(1).square().mean(1).clamp_min(1e-12)
        return (-10 * error.log10()).mean().item()

    def _schedules(self) -> list[np.ndarray]:
        """Of every kind of schedule the one that costs most within the budget; all-compute where none fits."""
        kinds = [lambda k: fora(self._graph, self._timesteps, k)]
        if all(site.depth is not None for site in self._graph.sites):
            kinds.append(lambda k: deepcache(self._graph, self._timesteps, k))
        found = []
        for make in kinds:
            for interval in range(1, len(self._timesteps) + 1):
                table = make(interval).compute
                if self._budget.cost(rows_of(table)) <= self._target + MARGIN:
                    found.append(table)
                    break
        return found or [np.ones((len(self._timesteps), len(self._graph)), dtype=bool)]
