"""DiTFastAttn, the part of it that a mask can say: self-attention shares its output with later steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.inspection.describe import Description
from stepmask.mask import StepMask
from stepmask.runtime.cache import Cache
from stepmask.runtime.position import Position
from stepmask.runtime.task import Task
from stepmask.values import Value
from stepmask_lab.rivals.calibrated._threshold import check_asked
from stepmask_lab.rivals.calibrated.recording import Recording
from stepmask_lab.rivals.watched_run import WatchedRun


def ditfastattn(
    pipe: Any,
    num_inference_steps: int = 50,
    threshold: float = 0.05,
    *,
    scheduler: Any | None = None,
    num_images: int = 8,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
) -> StepMask:
    """Output sharing as DiTFastAttn finds it (Yuan et al., NeurIPS 2024, arXiv 2406.08552).

    Taken from there: at each step of one run, block by block from the first, self-attention hands out its last output
    instead of computing, if the model's output then differs from that of the same step in full by less than
    ``threshold * (b + 1) / B`` in block b of B; later blocks and steps go on from what was chosen. The difference is
    the mean over elements of ``|a - b| / max(|a|, |b|)``. What differs: of its four ways to spare attention only the
    sharing of outputs over steps is a mask; windowed attention with a held residual and one attention for both halves
    of guidance are other computations, so here a block computes in full where the original would take one of them.
    Their code takes the maximum of ``a`` and ``b`` with their signs. Where guidance runs as two calls, the first one
    decides for both.

    It runs the model about B + 2 times per step; the choice at one threshold says nothing about another, so there is
    no target.

    Args:
        pipe: As for `record`.
        num_inference_steps: As for `record`.
        threshold: 0.025 to 0.15 in the paper.
        scheduler: As for `record`.
        num_images: As for `record`.
        seed: As for `record`.
        call_kwargs: As for `record`.
        conditions: As for `record`.

    Returns:
        A mask whose provenance has ``macs``, ``denoiser_calls`` and ``seconds``.

    Raises:
        StepMaskError: The model is no transformer with self-attention as sites, or an option makes no sense.
    """
    check_asked(threshold, None)
    task = Task(
        pipe, num_inference_steps, scheduler=scheduler, seed=seed, call_kwargs=call_kwargs, conditions=conditions
    )
    run = WatchedRun(task.innermost, num_images)
    graph = run.task.graph
    sites = [i for i in graph.blocks if graph.sites[i] == (graph.names[i], "attention", None)]
    if not sites:
        raise StepMaskError(
            f"DiTFastAttn is for transformers whose self-attention is a site, {type(task.denoiser).__name__} has none: "
            "name some with stepmask.register_sites(model, sites=[...])"
        )
    choice = _Choice(task.description, sites, threshold)
    run(choice.policy, choice)
    compute = np.ones((len(run.timesteps), len(graph)), dtype=bool)
    for row, chosen in choice.chosen.items():
        compute[row, sorted(chosen)] = False
    return Recording.of(run, np.zeros((0, 0, 0)), task).mask(compute, method="ditfastattn", threshold=threshold)


class _Choice:
    """Chooses at each denoiser call which sites hold, by trying."""

    def __init__(self, description: Description, sites: list[int], threshold: float) -> None:
        self._description, self._sites, self._threshold = description, sites, threshold
        self._held: frozenset[int] = frozenset()
        self._storing = self._begins = False
        self.chosen: dict[int, frozenset[int]] = {}
        """By row, the sites that hold."""

    def policy(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """Hold what is held now; a stream that begins has nothing to hold."""
        self._begins = step == 0
        if site in self._held and not self._begins:
            return cache.get(site)
        value = compute()
        if site in self._sites and (self._storing or self._begins):
            cache.put(site, value)
        return value

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        if position.row in self.chosen:  # the second stream of a step
            return self._run(forward, self.chosen[position.row], storing=True)
        full = self._run(forward, frozenset())
        if self._begins:
            self.chosen[position.row] = frozenset()
            return full
        chosen: frozenset[int] = frozenset()
        for number, site in enumerate(self._sites, start=1):
            trial = self._run(forward, chosen | {site})
            change = difference(self._description.used_output(trial), self._description.used_output(full))
            if change < self._threshold * number / len(self._sites):
                chosen |= {site}
        self.chosen[position.row] = chosen
        return self._run(forward, chosen, storing=True)

    def _run(self, forward: Callable[[], Any], held: frozenset[int], storing: bool = False) -> Any:
        self._held, self._storing = held, storing
        return forward()


def difference(one: Tensor, other: Tensor) -> float:
    """Mean over elements of ``|a - b| / max(|a|, |b|)``."""
    one, other = one.float(), other.float()
    scale = one.abs().maximum(other.abs()) + 1e-6
    return ((one - other).abs() / scale).mean().item()
