"""Learns the gates of all cells through the whole run, and prunes to a target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepmask.learning.budget import Budget
from stepmask.learning.interception import frozen
from stepmask.learning.job import Job
from stepmask.learning.meet_target import meet_target
from stepmask.learning.refusals import check_gradients, check_learnable, no_gradient
from stepmask.mask import StepMask
from stepmask_lab.rivals.dip_go.losses import consistency_loss
from stepmask_lab.rivals.dip_go.pruner import Pruner
from stepmask_lab.rivals.dip_go.supernet import SuperNet


@dataclass(frozen=True)
class Iteration:
    """What a callback gets after each run forwards and backwards."""

    iteration: int
    num_iterations: int
    consistency: float
    """Loss of the gated run's final images."""
    mean_gate: float
    """Over all cells, weighted by MACs."""

    def __str__(self) -> str:
        """How learning stands, in a few words."""
        return f"consistency loss {self.consistency:.4f}  mean gate {self.mean_gate:.3f}"


def learn(job: Job) -> StepMask:
    """A binary mask from gradients through the whole run (DiP-GO, Zhu et al., NeurIPS 2024, arXiv 2410.16942).

    Taken from there: each block may hand out what it handed out one step before (the SuperNet); a pruner network with
    one query per step and block, self-attention and a linear head predicts the gates; it learns by back-propagation
    through all steps, checkpointed step by step, from the consistency of the final image with the full run's and from
    a sparsity weighted by cost; the lowest gates are pruned until the target is met, and what then has no reader goes
    too (our elimination). What differs: blocks are the model's sites; gates stay continuous while learning; MACs are
    those of the plan, and the last few cells are chosen by what they save; images are compared before the decoder,
    where there is one.

    Raises:
        TargetError: The target is no share, or below the floor.
        UnsupportedModelError: No gradient reaches the images.
    """
    learner = _Learner(job)
    with job.reporting(job.config.iterations, "learning") as tell:
        while learner.done < job.config.iterations:
            tell(learner.step())
    return learner.finish()


class _Learner:
    """One learning run; what changes between iterations lives in the pruner and its optimiser."""

    def __init__(self, job: Job) -> None:
        self.task, self.config, self._target = job.task, job.config, job.goals.target_macs
        check_learnable(job.task.pipe)
        check_gradients(job.task.pipe)
        self.budget = Budget(job.task.graph, job.task.costs)
        rows, blocks = job.task.shape[0], list(job.task.graph.blocks)
        self.budget.check_target(self._target, rows)
        self._cells = np.ix_(range(1, rows), blocks)
        share = np.broadcast_to(self.budget.site_share, job.task.shape)[self._cells].ravel()
        self._share = torch.tensor(share / max(share.sum(), 1e-12), dtype=torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.task.seed)
            self._pruner = Pruner(len(share))
        self._optimiser = torch.optim.AdamW(self._pruner.parameters(), lr=self.config.pruner_learning_rate)
        self.done = 0
        self._checkpoint = job.checkpoint()
        if self._checkpoint.resumed:
            self._restore()

    def step(self) -> Iteration:
        """One run forwards and backwards."""
        task, count = self.task, self.config.chain_images
        first = self.done * count
        with frozen(task.denoiser):
            full = task.noise.latents(first, count).detach()
            values = self._pruner()
            run = SuperNet(task.pipe, task.graph, self._table(values), self.config.checkpointing)
            with run.intercepting():
                images = task.noise.latents(first, count)
                if not images.requires_grad:
                    raise no_gradient("the images", task.pipe)
                consistency = consistency_loss(images, full, self.config.consistency)
                mean_gate = (self._share * values).sum()
                loss = consistency + self.config.sparsity_weight * mean_gate
                self._optimiser.zero_grad()
                loss.backward()
        self._optimiser.step()
        self.done += 1
        self._keep()
        return Iteration(self.done, self.config.iterations, consistency.item(), mean_gate.item())

    def finish(self) -> StepMask:
        """Prune the lowest gates until the plan meets the target."""
        with torch.no_grad():
            scores = self._table(self._pruner()).numpy().astype(float)
        compute = meet_target(self.budget, np.ones(self.task.shape, dtype=bool), scores, self._target)
        seeds = self.task.noise.seeds(0, self.config.iterations * self.config.chain_images)
        return self.task.mask(compute, scores, target_macs=self._target, **self.task.facts(seeds))

    def _table(self, gates: Tensor) -> Tensor:
        """(T, B) of the gates, 1 where there is none."""
        table = torch.ones(self.task.shape)
        return table.index_put(tuple(torch.as_tensor(axis) for axis in self._cells), gates.view(len(table) - 1, -1))

    def _keep(self) -> None:
        """Write the pruner and its optimiser; the moments of Adam by the parameter's number."""
        tensors = {f"pruner.{name}": tensor for name, tensor in self._pruner.state_dict().items()}
        for number, moments in self._optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": tensor for name, tensor in moments.items()}
        self._checkpoint.arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        self._checkpoint.values = {"done": self.done}
        self._checkpoint.save()

    def _restore(self) -> None:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in self._checkpoint.arrays.items()}
        pruner = {name.removeprefix("pruner."): t for name, t in tensors.items() if name.startswith("pruner.")}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, number, what = name.split(".")
                moments.setdefault(int(number), {})[what] = tensor
        self.done = self._checkpoint.values.get("done", 0)
        if self.done:
            self._pruner.load_state_dict(pruner)
            self._optimiser.load_state_dict(self._optimiser.state_dict() | {"state": moments})
