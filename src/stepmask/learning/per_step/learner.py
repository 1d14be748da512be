"""The per-step learner: a mask for a frozen model, from Gaussian noise alone, inside the user's own pipeline.

Implements Eqs. 4-11 of arXiv 2603.19939 (`LearnConfig.paper`), what its per-step frame allows beyond (the defaults),
and rivals that fit into it (`LearnConfig.harmonica`, `LearnConfig.l2c`). At each denoiser call the original model gives
the reference, the relaxed model runs on the same input with gradient, and the pipeline goes on with what it made,
detached. Each row of scores is used once per trajectory, so its optimiser step is taken when the trajectory is over.
What will be run is what is learned; there is no loop of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import StepMaskError, TargetError, UnsupportedModelError
from stepmask.inspection.call import random_conditions
from stepmask.inspection.overrides import unchecked
from stepmask.inspection.prompts import without_clashes
from stepmask.learning.effort import Effort
from stepmask.learning.noise import NOISE_SEEDS, pick
from stepmask.learning.per_step import losses
from stepmask.learning.per_step.config import LearnConfig
from stepmask.learning.per_step.importance import calibrate
from stepmask.learning.per_step.relaxations import draw
from stepmask.learning.per_step.relaxed import RelaxedPolicy
from stepmask.learning.per_step.search import Search
from stepmask.learning.per_step.state import LearnerState, adam_step
from stepmask.learning.progress import show_progress
from stepmask.learning.riding import check_differentiable, detached, first_tensor, riding
from stepmask.learning.setting import Setting
from stepmask.mask import StepMask
from stepmask.runtime.position import Position
from stepmask.runtime.sampling import sample

BENEFIT_RATE = 0.2
"""Weight of the newest run in the running mean of what computing a cell is worth."""

LEAST_LAMBDA = 1e-9
"""lambda_1 until runs tell what cells are worth."""


@dataclass(frozen=True)
class LearnProgress:
    """What a callback gets after each trajectory."""

    trajectory: int
    num_trajectories: int
    loss: float
    """Mean loss of the masked model's steps while learning."""
    macs: float
    """Share of the full run's MACs that the plan of the rounded scores costs."""


def learn_per_step(
    pipe: Any,
    num_inference_steps: int,
    target_macs: float | None,
    seed: int,
    call_kwargs: Mapping[str, Any] | None,
    resume: str | Path | None,
    callback: Callable[[LearnProgress], None] | None,
    progress: bool,
    config: LearnConfig,
) -> StepMask:
    """A binary mask from the losses of single steps; see `stepmask.learn` for the arguments."""
    effort = Effort()
    learner = _Learner(pipe, num_inference_steps, target_macs, seed, call_kwargs, config)
    with effort.counting(learner.denoiser), show_progress(progress, config.num_trajectories) as show:
        state = learner.begin(None if resume is None else Path(resume), effort)
        while state.trajectory < config.num_trajectories:
            report = learner.run_trajectory(state)
            show(report)
            if resume is not None:
                state.effort = effort.facts()
                state.save(resume, learner.identity())
            if callback is not None:
                callback(report)
        state.effort = effort.facts()
    return learner.finish(state)


class _Learner(Setting):
    """One learning run; what changes between trajectories lives in `LearnerState`."""

    def __init__(
        self,
        pipe: Any,
        num_inference_steps: int,
        target: float | None,
        seed: int,
        call_kwargs: Mapping[str, Any] | None,
        config: LearnConfig,
    ) -> None:
        check_differentiable(pipe)
        latency = config.sparse_weights == "latency"
        super().__init__(pipe, num_inference_steps, seed, call_kwargs, config, latency)
        self.target = target
        self.cell_shares = self.costs.shares("latency" if latency else "macs")[0]
        self.num_rows = len(self.timesteps)
        self.learnable = torch.zeros(self.num_rows, len(self.graph), dtype=torch.bool)
        self.learnable[1 :: 2 if config.alternate else 1, list(self.graph.blocks)] = True
        self.locked = np.zeros(self.learnable.shape, dtype=bool)
        """Cells after the first row that compute whatever they are worth."""
        self.locked[1:, list(self.graph.blocks)] = ~self.learnable[1:, list(self.graph.blocks)].numpy()
        if target is not None:
            self._check_target(target)
        searches = config.sparsity == "search" and target is not None
        self.search = Search(pipe, self.graph, self.budget, target, self.timesteps, self._judge) if searches else None
        self.policy = RelaxedPolicy(self.num_rows, len(self.graph), config.credit_steps)

    def _check_target(self, target: float) -> None:
        self.budget.check_target(target, self.num_rows)
        least = self.cost(~self.learnable.numpy())
        if self.config.alternate and target < least:
            raise TargetError(
                f"target_macs={target:g} cannot be reached where only every second step may reuse: that costs "
                f"{least:.4f} at least; ask for {np.ceil(least * 1000) / 1000:g} or more"
            )

    def identity(self, **more: Any) -> dict[str, Any]:
        """What must be the same for a state to be continued."""
        return super().identity(target_macs=self.target, **more)

    def begin(self, path: Path | None, effort: Effort) -> LearnerState:
        """The state to go on from, or a fresh one with its calibration."""
        if path is not None and path.exists():
            state = LearnerState.load(path, self.identity())
            effort.go_on_from(state.effort)
            return state
        state = LearnerState(lambda_sparse=self.config.lambda_sparse)
        facts = calibrate(self.pipe, lambda: self._call(0), self.config.importance)
        weights = losses.step_weights(facts.delta) if self.config.scale_loss else torch.ones(self.num_rows)
        scores = torch.full((self.num_rows, len(self.graph)), self.config.initial_score)
        scores[~self.learnable] = 1.0
        state.tensors |= {
            "scores": scores,
            "delta": facts.delta,
            "importance": facts.importance,
            "step_weights": weights,
            "benefit": torch.zeros_like(scores),
            "cell_cost": self._cell_cost(scores),
        }
        if self.search is not None:
            self.search.start(state)
            state.tensors["scores"] = self._around(state.tensors["best"])
        if path is not None:
            state.effort = effort.facts()
            state.save(path, self.identity())  # says early if the file cannot be written
        return state

    def run_trajectory(self, state: LearnerState) -> LearnProgress:
        """One run of the pipeline and one optimiser step for each row."""
        config, scores = self.config, state.tensors["scores"]
        self.policy.reset()
        rider = _Student(self, scores, state.tensors["importance"], state.trajectory)
        with riding(self.pipe, self.policy, rider):
            self._call(1 + state.trajectory)
        gradient = self.policy.gradient / config.batch_size
        rate = BENEFIT_RATE if state.trajectory else 1.0
        state.tensors["benefit"].lerp_(-gradient, rate)
        done = (state.trajectory + 1) / config.num_trajectories
        if self.search is not None:
            updated = self._around(torch.from_numpy(self.search.improve(state, self._worth(state))))
        elif config.sparsity != "penalty" and self.target is not None:
            updated = self._project(state, done)
        else:
            updated = self._penalise(state, gradient, done)
        updated = updated.clamp(config.exploration, 1 - config.exploration)
        state.tensors["scores"] = torch.where(self.learnable, updated, 1.0)
        macs = self.cost(self._rounded(state))
        state.trajectory += 1
        state.history.append((rider.mean_loss, macs))
        return LearnProgress(state.trajectory, config.num_trajectories, rider.mean_loss, macs)

    def _project(self, state: LearnerState, done: float) -> Tensor:
        """Scores moved towards the best mask on the budget of this moment."""
        chosen = self.budget.exchange(self._rounded(state), self._worth(state), self._wanted(done))
        return state.tensors["scores"] + self.config.learning_rate * (2 * torch.from_numpy(chosen).float() - 1)

    def _penalise(self, state: LearnerState, gradient: Tensor, done: float) -> Tensor:
        """Scores after one optimiser step on Eq. 8; lambda_1 follows the plan's cost."""
        config, scores = self.config, state.tensors["scores"]
        if config.sparse_weights == "plan" and state.trajectory % 4 == 0:
            state.tensors["cell_cost"] = self._cell_cost(scores)
        cell_cost, weights = state.tensors["cell_cost"], state.tensors["step_weights"]
        if self.target is not None:
            if state.trajectory == 0 or state.lambda_sparse == LEAST_LAMBDA:
                # where a third of the cells is not worth its cost; nothing is worth anything while all compute
                worth = state.tensors["benefit"] / (cell_cost * weights[:, None]).clamp_min(1e-9)
                state.lambda_sparse = max(worth[self.learnable].quantile(1 / 3).item(), LEAST_LAMBDA)
            macs = self.cost(self._rounded(state))
            if state.lambda_sparse > LEAST_LAMBDA:
                state.lambda_sparse *= float(np.exp(np.clip(4 * (macs - self._wanted(done)), -0.4, 0.4)))
        lambda_2 = config.lambda_bimodal * done * state.lambda_sparse
        penalty = losses.regulariser_gradient(scores, cell_cost, state.lambda_sparse, lambda_2, weights)
        return adam_step(scores, gradient + penalty, state, config.learning_rate)

    def _worth(self, state: LearnerState) -> np.ndarray:
        """(T, B) what computing a cell is worth; infinite where it must."""
        benefit = state.tensors["benefit"] / state.tensors["step_weights"][:, None]
        return np.where(self.locked, np.inf, benefit.numpy())

    def _around(self, table: Tensor) -> Tensor:
        """Scores of a table, as far from 0 and 1 as exploration asks; (T, B)."""
        scores = table.float().clamp(self.config.exploration, 1 - self.config.exploration)
        return torch.where(self.learnable, scores, 1.0)

    def _wanted(self, done: float) -> float:
        """Cost on the way down from the full run to the target, where the last quarter stays."""
        return max(self.target, 1 - (1 - self.target) * done / 0.75)

    def finish(self, state: LearnerState) -> StepMask:
        """Round the scores and meet the target exactly."""
        scores = state.tensors["scores"]
        compute = self._rounded(state)
        if self.target is not None:
            order = (scores + 1e-3 * torch.tanh(state.tensors["benefit"])).numpy()
            compute = self.budget.meet(compute, np.where(self.locked, np.inf, order), self.target)
        first = NOISE_SEEDS + self._first_seed(0)
        return self.mask(
            compute,
            range(first, first + (3 + self.config.num_trajectories) * self.config.batch_size),
            scores.numpy(),
            method="learned per step",
            target_macs=self.target,
            **state.effort,
        )

    def _call(self, trajectory: int) -> Tensor:
        """Run the pipeline from the noise and conditions of a trajectory."""
        generator = torch.Generator().manual_seed(NOISE_SEEDS + self._first_seed(trajectory))
        size = self.config.batch_size
        try:
            arguments = random_conditions(self.pipe, size, generator, self.call_kwargs or ())
        except StepMaskError:
            if not self.call_kwargs:
                raise
            arguments = {}
        first = NOISE_SEEDS + self._first_seed(trajectory)
        numbers = range(trajectory * size, (trajectory + 1) * size)
        given = {name: pick(name, value, numbers) for name, value in self.call_kwargs.items()}
        with unchecked(self.pipe):
            return sample(
                self.pipe,
                {**without_clashes(arguments, given), **given},
                range(first, first + size),
                self.num_inference_steps,
            )

    def _judge(self) -> Tensor:
        """Images from noise that no trajectory uses."""
        return torch.cat([self._call(1 + self.config.num_trajectories + i) for i in range(2)])

    def _first_seed(self, trajectory: int) -> int:
        return ((self.seed * 10**6 + trajectory) * self.config.batch_size) % (NOISE_SEEDS - 10**7)

    def _rounded(self, state: LearnerState) -> np.ndarray:
        return (state.tensors["scores"] > self.config.threshold).numpy()

    def _cell_cost(self, scores: Tensor) -> Tensor:
        """(T, B) cost of a cell relative to the mean cell."""
        if self.config.sparse_weights == "uniform":
            return torch.ones_like(scores)
        share = torch.tensor(self.cell_shares, dtype=torch.float32).expand_as(scores)
        if self.config.sparse_weights == "plan":
            rounded = (scores > self.config.threshold).numpy()
            marginal = torch.tensor(self.budget.marginal(rounded), dtype=torch.float32)
            # a dead cell costs nothing now, but would if it were read: half its own cost keeps it from drifting
            share = torch.maximum(marginal * len(scores), 0.5 * share)
        return share / share[:, list(self.graph.blocks)].mean()


def _loss_scale(output: Tensor, weight: float) -> float:
    """A power of two that keeps the gradients of a weighted loss at the output in the range of float16.

    They are means over the values of an image, so they fall as those are more.
    """
    return 2.0 ** round(math.log2(output[0].numel() / max(weight, 1e-12)))


class _Student:
    """Runs the original and the relaxed model at each denoiser call of one trajectory."""

    def __init__(self, learner: _Learner, scores: Tensor, importance: Tensor, trajectory: int) -> None:
        self._learner, self._scores, self._importance = learner, scores, importance
        seed = (learner.seed * 10**6 + trajectory) * 2 + 1
        self._generator = torch.Generator().manual_seed(seed)
        self._losses: list[float] = []
        self._row = -1

    @property
    def mean_loss(self) -> float:
        """Mean over the rows after the first."""
        return sum(self._losses) / max(len(self._losses), 1)

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        learner, policy = self._learner, self._learner.policy
        config = learner.config
        if position.row != self._row:
            self._row = position.row
            policy.draw = draw(
                self._scores[position.row],
                config.batch_size,
                config.sampling,
                config.temperature,
                self._generator,
                config.balanced,
                config.threshold,
            )
        policy.row, policy.stream, policy.mixed = position.row, position.stream, False
        policy.teacher = True
        original = forward()
        output = first_tensor(learner.denoiser, original)
        # the mean over the batch is a sum over images here: scores collect per image
        weight = config.batch_size * self._importance[position.row].item()
        policy.teacher, policy.copies = False, max(1, len(output) // config.batch_size)
        policy.loss_scale = _loss_scale(output, weight)
        with torch.enable_grad():
            masked = forward()
            if policy.mixed:
                measure = losses.feature_loss if config.loss == "relative" else losses.squared_loss
                loss = measure(first_tensor(learner.denoiser, masked), output)
                if not loss.requires_grad:
                    raise UnsupportedModelError(
                        f"no gradient reaches the output of {type(learner.denoiser).__name__}: it is quantised or "
                        "compiled in a way that cannot be differentiated; learn on the plain model"
                    )
                (loss * (weight * policy.loss_scale)).backward()
                self._losses.append(loss.item())
        return detached(masked if config.trajectory == "student" else original)
