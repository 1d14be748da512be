"""The paper's learner: a mask for a frozen model, from Gaussian noise alone, inside the user's own pipeline.

Implements Eqs. 4-11 of arXiv 2603.19939. At each denoiser call the original model gives the reference, the relaxed
model runs on the same input with gradient, and the pipeline goes on with what it made, detached. Each row of scores is
used once per trajectory, so its optimiser step is taken when the trajectory is over. What will be run is what is
learned; there is no loop of ours.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.inspection.overrides import unchecked
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.prompts import without_clashes
from stepmask.learning.budget import Budget
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.interception import detached, intercepted, weights_cast
from stepmask.learning.job import Job
from stepmask.learning.meet_target import meet_target
from stepmask.learning.paper import losses
from stepmask.learning.paper.config import Paper, ScoreConfiguration, Trajectory
from stepmask.learning.paper.output_change import output_changes
from stepmask.learning.paper.relaxations import Draw, draw
from stepmask.learning.paper.relaxed_model import RelaxedPolicy
from stepmask.learning.refusals import check_layers, check_learnable, not_differentiable
from stepmask.liveness import rows_of
from stepmask.mask import StepMask
from stepmask.runtime.noise import NOISE_SEEDS, pick
from stepmask.runtime.position import Position
from stepmask.runtime.sampling import sample

BENEFIT_RATE = 0.2
"""Weight of the newest run in the running mean of what computing a cell is worth."""

LEAST_LAMBDA = 1e-9
"""lambda_1 until runs tell what cells are worth."""

BETAS = (0.8, 0.95)
"""Decay of Adam's moments."""


@dataclass(frozen=True)
class TrajectoryReport:
    """What a callback gets after each trajectory.

    Attributes:
        trajectory: Number of trajectories done.
        num_trajectories: Number of trajectories in all.
        loss: Mean loss of the masked model's steps while learning.
        macs: Share of the full run's MACs that the plan of the rounded scores costs.
    """

    trajectory: int
    num_trajectories: int
    loss: float
    macs: float

    def __str__(self) -> str:
        """How learning stands, in a few words."""
        return f"loss {self.loss:.4f}  MACs {self.macs:.1%}"


def learn(job: Job) -> StepMask:
    """Learn a binary mask by the paper's method.

    Raises:
        TargetError: No plan can cost so little.
        UnsupportedModelError: No gradient comes back through a step of the model.
    """
    return PaperLearner(job).run()


class ScoreLearner(ABC):
    """Learns the scores of cells by an L1 penalty that is steered to the target.

    A subclass says which cells are learned, what is drawn from scores, what the loss is, and which steps matter.
    """

    threshold: float = 0.5
    """A cell whose score exceeds it computes."""
    trajectory: Trajectory = "student"
    """Whose output the sampler goes on with."""
    lambda_bimodal: float = 0.0
    """lambda_2 at the end of learning, relative to lambda_1."""

    def __init__(self, job: Job) -> None:
        check_learnable(job.task.pipe)
        check_layers(job.task.pipe)
        self.job, self.task, self.config = job, job.task, job.config
        self.target = job.goals.target_macs
        self.budget = Budget(self.task.graph, self.task.costs)
        self.blocks = list(self.task.graph.blocks)
        self.learnable = self.learnable_cells()
        self.locked = np.zeros(self.task.shape, dtype=bool)
        """Cells after the first row that compute whatever they are worth."""
        self.locked[1:, self.blocks] = ~self.learnable[1:, self.blocks].numpy()
        if self.target is not None:
            self.budget.check_target(self.target, self.task.shape[0])
        self.policy = RelaxedPolicy(*self.task.shape)
        self.tensors: dict[str, Tensor] = {}
        self.done, self.lambda_sparse = 0, self.config.lambda_sparse

    config: ScoreConfiguration

    def learnable_cells(self) -> Tensor:
        """(T, B) bool, cells that are learned: by default all of blocks after the first row."""
        learnable = torch.zeros(self.task.shape, dtype=torch.bool)
        learnable[1:, self.blocks] = True
        return learnable

    @abstractmethod
    def draw(self, scores: Tensor, generator: torch.Generator) -> Draw:
        """What the images of a batch draw from a row of scores (B,)."""

    def loss(self, masked: Tensor, original: Tensor) -> Tensor:
        """The loss of a step's output (N, ...), a mean over the batch; Eq. 5 by default."""
        return losses.feature_loss(masked, original)

    def step_facts(self) -> tuple[Tensor, Tensor]:
        """(T,) weights of the regularisers, and (T,) weights of the losses; all 1 by default."""
        ones = torch.ones(self.task.shape[0])
        return ones, ones

    def cell_cost(self) -> Tensor:
        """(T, B) what a computing cell costs in the penalty, relative to the mean cell; 1 by default."""
        return torch.ones(self.task.shape)

    def run(self) -> StepMask:
        """Learn to the end, or go on from the checkpoint, and make the mask."""
        checkpoint = self.job.checkpoint()
        self._restore(checkpoint) if checkpoint.resumed else self._begin(checkpoint)
        with self.job.reporting(self.config.num_trajectories, "learning") as tell:
            while self.done < self.config.num_trajectories:
                report = self._run_trajectory()
                self._keep(checkpoint)
                tell(report)
        return self._finish()

    def _begin(self, checkpoint: Checkpoint) -> None:
        """A fresh state, with the facts about steps."""
        weights, importance = self.step_facts()
        scores = torch.full(self.task.shape, self.config.initial_score)
        scores[~self.learnable] = 1.0
        self.tensors = {
            "scores": scores,
            "importance": importance,
            "step_weights": weights,
            "benefit": torch.zeros_like(scores),
            "adam_first": torch.zeros_like(scores),
            "adam_second": torch.zeros_like(scores),
        }
        self._keep(checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.tensors = {name: torch.from_numpy(array.copy()) for name, array in checkpoint.arrays.items()}
        self.done, self.lambda_sparse = checkpoint.values["trajectory"], checkpoint.values["lambda_sparse"]

    def _keep(self, checkpoint: Checkpoint) -> None:
        checkpoint.arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        checkpoint.values = {"trajectory": self.done, "lambda_sparse": self.lambda_sparse}
        checkpoint.save()

    def _run_trajectory(self) -> TrajectoryReport:
        """One run of the pipeline, and one optimiser step for each row."""
        config = self.config
        self.policy.gradient.zero_()
        student = _Student(self, self.done)
        with weights_cast(self.task.denoiser), intercepted(self.task.pipe, self.task.graph, self.policy, student):
            self.sample_trajectory(1 + self.done)
        gradient = self.policy.gradient / config.batch_size
        self.tensors["benefit"].lerp_(-gradient, BENEFIT_RATE if self.done else 1.0)
        updated = self._penalised(gradient, (self.done + 1) / config.num_trajectories)
        self.tensors["scores"] = torch.where(self.learnable, updated.clamp(0.0, 1.0), 1.0)
        self.done += 1
        return TrajectoryReport(self.done, config.num_trajectories, student.mean_loss, self._cost(self._rounded()))

    def _penalised(self, gradient: Tensor, done: float) -> Tensor:
        """Scores after one optimiser step on Eq. 8; lambda_1 follows the plan's cost.

        The gradient, (T, B), is that of the losses by the scores; `done` is the share of learning that is done.
        """
        cell_cost, weights = self.cell_cost(), self.tensors["step_weights"]
        if self.target is not None:
            if self.done == 0 or self.lambda_sparse == LEAST_LAMBDA:
                # where a third of the cells is not worth its cost; nothing is worth anything while all compute
                worth = self.tensors["benefit"] / (cell_cost * weights[:, None]).clamp_min(1e-9)
                self.lambda_sparse = max(worth[self.learnable].quantile(1 / 3).item(), LEAST_LAMBDA)
            macs = self._cost(self._rounded())
            wanted = max(self.target, 1 - (1 - self.target) * done / 0.75)  # the last quarter stays at the target
            if self.lambda_sparse > LEAST_LAMBDA:
                self.lambda_sparse *= float(np.exp(np.clip(4 * (macs - wanted), -0.4, 0.4)))
        lambda_2 = self.lambda_bimodal * done * self.lambda_sparse
        penalty = losses.regulariser_gradient(self.tensors["scores"], cell_cost, self.lambda_sparse, lambda_2, weights)
        return self._adam_step(gradient + penalty)

    def _adam_step(self, gradient: Tensor) -> Tensor:
        """Scores after one step of Adam; torch.optim.Adam keeps its moments where no checkpoint has them."""
        step, (first_decay, second_decay) = self.done + 1, BETAS
        first, second = self.tensors["adam_first"], self.tensors["adam_second"]
        first.lerp_(gradient, 1 - first_decay)
        second.lerp_(gradient.square(), 1 - second_decay)
        first_hat, second_hat = first / (1 - first_decay**step), second / (1 - second_decay**step)
        return self.tensors["scores"] - self.config.learning_rate * first_hat / (second_hat.sqrt() + 1e-12)

    def _finish(self) -> StepMask:
        """Round the scores and meet the target exactly."""
        scores, compute = self.tensors["scores"], self._rounded()
        if self.target is not None:
            order = (scores + 1e-3 * torch.tanh(self.tensors["benefit"])).numpy()
            compute = meet_target(self.budget, compute, np.where(self.locked, np.inf, order), self.target)
        first = NOISE_SEEDS + self._first_seed(0)
        seeds = range(first, first + (3 + self.config.num_trajectories) * self.config.batch_size)
        facts = self.task.facts(seeds)
        macs = round(self._cost(compute), 6)
        return self.task.mask(compute, scores.numpy(), target_macs=self.target, macs=macs, **facts)

    def sample_trajectory(self, number: int) -> Tensor:
        """Run the pipeline from the noise and conditions of a trajectory; its final images."""
        pipe, size, given = self.task.pipe, self.config.batch_size, self.task.call_kwargs
        first = NOISE_SEEDS + self._first_seed(number)
        generator = torch.Generator().manual_seed(first)
        try:
            drawn = PipelineCall(pipe).drawn(size, generator, given or ())
        except StepMaskError:
            if not given:
                raise
            drawn = {}
        numbers = range(number * size, (number + 1) * size)
        given = {name: pick(name, value, numbers) for name, value in given.items()}
        arguments = {**without_clashes(drawn, given), **given}
        with unchecked(pipe):
            return sample(pipe, arguments, range(first, first + size), self.task.num_inference_steps)

    def _first_seed(self, trajectory: int) -> int:
        return ((self.task.seed * 10**6 + trajectory) * self.config.batch_size) % (NOISE_SEEDS - 10**7)

    def _rounded(self) -> np.ndarray:
        return (self.tensors["scores"] > self.threshold).numpy()

    def _cost(self, compute: np.ndarray) -> float:
        return self.budget.cost(rows_of(compute))


class PaperLearner(ScoreLearner):
    """arXiv 2603.19939 as we read it."""

    config: Paper

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.trajectory, self.lambda_bimodal = self.config.trajectory, self.config.lambda_bimodal

    def draw(self, scores: Tensor, generator: torch.Generator) -> Draw:
        """A Bernoulli variable for each image and site, or its relaxation."""
        config = self.config
        return draw(scores, config.batch_size, config.sampling, config.temperature, generator)

    def step_facts(self) -> tuple[Tensor, Tensor]:
        """w(t) of Eq. 10, if so configured, and losses of equal weight."""
        ones, _ = super().step_facts()
        if not self.config.scale_loss:
            return ones, ones
        return losses.step_weights(output_changes(self.task, lambda: self.sample_trajectory(0))), ones

    def cell_cost(self) -> Tensor:
        """1, or the MACs of a cell."""
        if self.config.sparse_weights == "uniform":
            return super().cell_cost()
        share = torch.tensor(self.budget.site_share, dtype=torch.float32).expand(self.task.shape)
        return share / share[:, self.blocks].mean()


def _loss_scale(output: Tensor, weight: float) -> float:
    """A power of two that keeps the gradients of a weighted loss at the output in the range of float16.

    They are means over the values of an image, so they fall as those are more.
    """
    return 2.0 ** round(math.log2(output[0].numel() / max(weight, 1e-12)))


class _Student:
    """Runs the original and the relaxed model at each denoiser call of one trajectory."""

    def __init__(self, learner: ScoreLearner, trajectory: int) -> None:
        self._learner = learner
        self._scores, self._importance = learner.tensors["scores"], learner.tensors["importance"]
        seed = (learner.task.seed * 10**6 + trajectory) * 2 + 1
        self._generator = torch.Generator().manual_seed(seed)
        self._losses: list[float] = []
        self._row = -1

    @property
    def mean_loss(self) -> float:
        """Mean over the rows after the first."""
        return sum(self._losses) / max(len(self._losses), 1)

    def __call__(self, position: Position, forward: Any) -> Any:
        learner, policy = self._learner, self._learner.policy
        description, batch_size = learner.task.description, learner.config.batch_size
        if position.row != self._row:
            self._row = position.row
            policy.draw = learner.draw(self._scores[position.row], self._generator)
        policy.row, policy.stream, policy.mixed = position.row, position.stream, False
        policy.teacher = True
        original = forward()
        output = description.used_output(original)
        # the mean over the batch is a sum over images here: scores collect per image
        weight = batch_size * self._importance[position.row].item()
        policy.teacher, policy.copies = False, max(1, len(output) // batch_size)
        policy.loss_scale = _loss_scale(output, weight)
        with torch.enable_grad():
            masked = forward()
            if policy.mixed:
                loss = learner.loss(description.used_output(masked), output)
                if not loss.requires_grad:
                    raise not_differentiable(f"no gradient reaches the output of {type(description.denoiser).__name__}")
                (loss * (weight * policy.loss_scale)).backward()
                self._losses.append(loss.item())
        return detached(masked if learner.trajectory == "student" else original)
