"""Learns the gates of all cells through the whole run, and prunes to a target."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask._files import write_atomically
from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.learning._states import check_identity, damaged
from stepmask.learning.effort import Effort
from stepmask.learning.progress import show_iterations
from stepmask.learning.riding import check_run_differentiable, frozen
from stepmask.learning.setting import Setting
from stepmask.mask import StepMask
from stepmask_lab.rivals.dip_go.config import FullChainConfig
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


def learn_full_chain(
    pipe: Any,
    num_inference_steps: int,
    target_macs: float,
    seed: int,
    call_kwargs: Mapping[str, Any] | None,
    resume: str | Path | None,
    callback: Callable[[Iteration], None] | None,
    progress: bool,
    config: FullChainConfig,
) -> StepMask:
    """A binary mask from gradients through the whole run (DiP-GO, Zhu et al., NeurIPS 2024, arXiv 2410.16942).

    Taken from there: each block may hand out what it handed out one step before (the SuperNet); a pruner network with
    one query per step and block, self-attention and a linear head predicts the gates; it learns by back-propagation
    through all steps, checkpointed step by step, from the consistency of the final image with the full run's and from
    a sparsity weighted by cost; the lowest gates are pruned until the target is met, and what then has no reader goes
    too (our elimination). What differs: blocks are the model's sites; gates stay continuous while learning; MACs are
    those of the plan, and the last few cells are chosen by what they save; images are compared before the decoder,
    where there is one. See `stepmask.learn` for the arguments.

    Raises:
        TargetError: The target is no share, or below the floor.
        UnsupportedModelError: No gradient reaches the images.
    """
    effort = Effort()
    learner = _Learner(Setting(pipe, num_inference_steps, seed, call_kwargs, config), target_macs, resume, effort)
    with effort.counting(learner.setting.denoiser), show_iterations(progress, config.iterations) as show:
        while learner.done < config.iterations:
            report = learner.step()
            show(report)
            if callback is not None:
                callback(report)
    return learner.finish()


class _Learner:
    """One learning run; what changes between iterations lives in the pruner and its optimiser."""

    def __init__(self, setting: Setting, target: float, resume: str | Path | None, effort: Effort) -> None:
        self.setting, self.config, self._target, self._effort = setting, setting.config, target, effort
        self._path = None if resume is None else Path(resume)
        check_run_differentiable(setting.pipe)
        rows, blocks = setting.shape[0], list(setting.graph.blocks)
        setting.budget.check_target(target, rows)
        self._cells = np.ix_(range(1, rows), blocks)
        share = np.broadcast_to(setting.budget.site_share, setting.shape)[self._cells].ravel()
        self._share = torch.tensor(share / max(share.sum(), 1e-12), dtype=torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed)
            self._pruner = Pruner(len(share))
        self._optimiser = torch.optim.AdamW(self._pruner.parameters(), lr=self.config.pruner_learning_rate)
        self.done = 0
        if self._path is not None:
            self._load() if self._path.exists() else self._save()  # says early if it cannot be written

    def step(self) -> Iteration:
        """One run forwards and backwards."""
        setting, count = self.setting, self.config.chain_images
        first = self.done * count
        with frozen(setting.denoiser):
            full = setting.noise.latents(first, count).detach()
            values = self._pruner()
            run = SuperNet(setting.pipe, setting.graph, self._table(values), self.config.checkpointing)
            with run.riding():
                images = setting.noise.latents(first, count)
                if not images.requires_grad:
                    raise UnsupportedModelError(
                        f"no gradient reaches the images through {type(setting.pipe.scheduler).__name__} or the "
                        'pipeline\'s loop: use method="paper", which needs none, or another scheduler'
                    )
                consistency = consistency_loss(images, full, self.config.consistency)
                mean_gate = (self._share * values).sum()
                loss = consistency + self.config.sparsity_weight * mean_gate
                self._optimiser.zero_grad()
                loss.backward()
        self._optimiser.step()
        self.done += 1
        self._save()
        return Iteration(self.done, self.config.iterations, consistency.item(), mean_gate.item())

    def finish(self) -> StepMask:
        """Prune the lowest gates until the plan meets the target."""
        with torch.no_grad():
            scores = self._table(self._pruner()).numpy().astype(float)
        compute = self.setting.budget.meet(np.ones(self.setting.shape, dtype=bool), scores, self._target)
        return self.setting.mask(
            compute,
            self.setting.noise.seeds(0, self.config.iterations * self.config.chain_images),
            scores,
            method="dip-go",
            target_macs=self._target,
            cache_bytes_per_image=self.setting.cache_bytes(compute),
            **self._effort.facts(),
        )

    def _table(self, gates: Tensor) -> Tensor:
        """(T, B) of the gates, 1 where there is none."""
        table = torch.ones(self.setting.shape)
        return table.index_put(tuple(torch.as_tensor(axis) for axis in self._cells), gates.view(len(table) - 1, -1))

    def _identity(self) -> dict[str, Any]:
        return self.setting.identity(target_macs=self._target)

    def _save(self) -> None:
        if self._path is None:
            return
        content = {
            "stepmask_full_chain": self._identity(),
            "pruner": self._pruner.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "done": self.done,
            "effort": self._effort.facts(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(self._path, buffer.getvalue())

    def _load(self) -> None:
        try:
            content = torch.load(self._path, weights_only=True)
            check_identity(self._path, "learning run", content["stepmask_full_chain"], self._identity())
            self._pruner.load_state_dict(content["pruner"])
            self._optimiser.load_state_dict(content["optimiser"])
            self.done = content["done"]
            self._effort.go_on_from(content["effort"])
        except StepMaskError:
            raise
        except Exception as error:  # torch.load of a damaged file raises whatever it meets
            raise damaged(self._path, "learning run", error) from error
