"""HarmoniCa: scores by a straight-through threshold, losses weighted by what reusing a step does to the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from stepmask.learning.interception import intercepted
from stepmask.learning.job import Job
from stepmask.learning.paper.learner import ScoreLearner
from stepmask.learning.paper.losses import relative_norm
from stepmask.learning.paper.output_change import OutputRecorder
from stepmask.learning.paper.relaxations import Draw
from stepmask.mask import StepMask
from stepmask.runtime.cache import Cache
from stepmask.runtime.position import Position
from stepmask.values import Value
from stepmask_lab.rivals.harmonica.config import HarmoniCa
from stepmask_lab.rivals.losses import squared_loss

NUM_PROBED_STEPS = 12
"""The weights of so many steps are measured; those between are interpolated."""


def learn(job: Job) -> StepMask:
    """A binary mask by HarmoniCa (Huang et al., ICML 2025, arXiv 2410.01723).

    Taken from there: learning without images along the masked model's own run, with the caches that it would have; a
    straight-through threshold of 0.1; the squared error of each step's output, weighted by the squared error of the
    final image where that step alone is reused; an L1 norm of the scores. What differs: scores move in [0, 1], theirs
    are logits under a sigmoid; the weights are measured once, with all other steps computed, theirs again every 500
    iterations under the router of that moment; the penalty is steered to the target and cells are held or computed to
    meet it, where they choose its weight by hand; tens of runs instead of 20,000 iterations.
    """
    return HarmoniCaLearner(job).run()


class HarmoniCaLearner(ScoreLearner):
    """Learns along the student's run.

    Args:
        job: What is asked for, with a `HarmoniCa` configuration.
    """

    config: HarmoniCa

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.threshold = self.config.threshold

    def draw(self, scores: Tensor, generator: torch.Generator) -> Draw:
        """Compute where the score exceeds the threshold; the gradient passes as if it were the score."""
        scores = scores.expand(self.config.batch_size, -1)
        return Draw((scores > self.threshold).float(), torch.ones_like(scores), scores > self.threshold)

    def loss(self, masked: Tensor, original: Tensor) -> Tensor:
        """The mean square of the difference."""
        return squared_loss(masked, original)

    def step_facts(self) -> tuple[Tensor, Tensor]:
        """Regularisers of equal weight, and losses by what reusing a step does to the final image."""
        importance = self._importance()
        return torch.ones(len(importance)), importance

    def _importance(self) -> Tensor:
        """(T,) squared relative change of the final image where that step alone is reused, mean 1."""
        reused = _OneStepReused(self.task.description)
        with intercepted(self.task.pipe, self.task.graph, reused.policy, reused) as decoder_inputs:
            final = _latents(decoder_inputs, self.sample_trajectory(0))
            rows = 1 + max(row for row, _ in reused.outputs)
            streams = {stream for _, stream in reused.outputs}
            if rows <= 2 or any((row, stream) not in reused.outputs for row in range(rows) for stream in streams):
                return torch.ones(rows)
            probed = np.unique(np.rint(np.linspace(1, rows - 1, min(NUM_PROBED_STEPS, rows - 1))).astype(int))
            effects = []
            for row in probed.tolist():
                reused.row = row
                latents = _latents(decoder_inputs, self.sample_trajectory(0))
                moved = relative_norm(latents - final, final).mean().item()
                effects.append(max(moved, 1e-9) ** 2)
        log_effect = np.interp(np.arange(rows), probed, np.log(effects))
        importance = torch.tensor(np.exp(log_effect), dtype=torch.float32)
        return importance / importance[1:].mean()


def _latents(decoder_inputs: list[Tensor], images: Tensor) -> Tensor:
    """What a run made: the input of its decoder, or `images` where it has none."""
    return decoder_inputs[0].float().cpu() if decoder_inputs else images


class _OneStepReused(OutputRecorder):
    """Records a run; then plays it back up to a row, holds every site there, and computes on."""

    row: int | None = None
    """Where every site holds; None while the run is recorded."""

    def policy(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """Keep values one row before the held one, and hand them out there."""
        if step == self.row:
            return cache.get(site)
        value = compute()
        if self.row is not None and step == self.row - 1:
            cache.put(site, value)
        return value

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        """Record a call, play it back, or run it."""
        if self.row is None:
            return super().__call__(position, forward)
        if position.row >= self.row:
            return forward()
        if position.row == self.row - 1:
            forward()  # for the sites' values
        device = next(self.description.denoiser.parameters()).device
        return tree_map_only(Tensor, lambda t: t.to(device), self.outputs[position.row, position.stream])
