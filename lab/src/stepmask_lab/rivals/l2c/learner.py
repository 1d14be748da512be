"""Learning-to-Cache: every second step may reuse what the step before it computed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import TargetError
from stepmask.learning.job import Job
from stepmask.learning.paper.config import Trajectory
from stepmask.learning.paper.learner import ScoreLearner
from stepmask.learning.paper.relaxations import Draw, interpolated
from stepmask.mask import StepMask
from stepmask_lab.rivals.l2c.config import L2C
from stepmask_lab.rivals.losses import squared_loss


def learn(job: Job) -> StepMask:
    """A binary mask by Learning-to-Cache (Ma et al., NeurIPS 2024, arXiv 2406.01733).

    Taken from there: only every second step may reuse, and only what the step before it computed in full; values are
    mixed by their scores while learning, and computed above a threshold of 0.1 after it; the squared error of each such
    step's output, all alike; an L1 norm of the scores. What differs: inputs come from runs of the original model,
    theirs from images with noise; scores move in [0, 1], theirs are logits under a sigmoid; the penalty is steered to
    the target and cells are held or computed to meet it; tens of runs instead of 50,000 iterations. Half of the run is
    the least that it can cost.

    Raises:
        TargetError: The target is below a half, or no plan can cost so little.
    """
    return L2CLearner(job).run()


class L2CLearner(ScoreLearner):
    """Learns along the original's run.

    Args:
        job: What is asked for, with an `L2C` configuration.
    """

    config: L2C
    trajectory: Trajectory = "teacher"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.threshold = self.config.threshold
        self._check_target()

    def _check_target(self) -> None:
        """Raise where the target is less than reusing every second step in full."""
        least = self._cost(~self.learnable.numpy())
        if self.target is not None and self.target < least:
            raise TargetError(
                f"target_macs={self.target:g} cannot be reached where only every second step may reuse: that costs "
                f"{least:.4f} at least; ask for {np.ceil(least * 1000) / 1000:g} or more"
            )

    def learnable_cells(self) -> Tensor:
        """(T, B) bool: blocks at every second step."""
        learnable = torch.zeros(self.task.shape, dtype=torch.bool)
        learnable[1::2, self.blocks] = True
        return learnable

    def draw(self, scores: Tensor, generator: torch.Generator) -> Draw:
        """The scores themselves mix both values."""
        return interpolated(scores.expand(self.config.batch_size, -1), self.threshold)

    def loss(self, masked: Tensor, original: Tensor) -> Tensor:
        """The mean square of the difference."""
        return squared_loss(masked, original)
