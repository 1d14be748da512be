"""The second half of block caching: a scale and a shift per channel for each held value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepmask.liveness import Plan, State, full_actions, make_plan, rows_of
from stepmask.mask import Action, StepMask
from stepmask.nesting import inside_of, without_what_rests
from stepmask.runtime.cache import Cache
from stepmask.runtime.channels import channel_dim
from stepmask.runtime.policies import RunPlan
from stepmask.runtime.position import Position
from stepmask.runtime.task import Task
from stepmask.values import Value, take_apart
from stepmask_lab.rivals.calibrated.scaled_plan import Affine, ScaledPlan, corrected
from stepmask_lab.rivals.watched_run import WatchedRun


def fit_scale_shift(
    pipe: Any,
    mask: StepMask,
    *,
    scheduler: Any | None = None,
    num_images: int = 8,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
) -> ScaledPlan:
    """Fit a scale and a shift to every held value of a mask (Wimbauer et al., CVPR 2024, arXiv 2312.03209).

    Taken from there: one scale and one shift per channel, step and block, with the model frozen, so that a held value
    comes near to what the block would compute. What differs: they train them by gradient descent; here each is the
    least squares solution, found in one run under the mask, step by step and block by block, with everything before it
    corrected already. Where guidance runs as two calls, the first is fitted and both are corrected.

    Args:
        pipe: As for `record`.
        mask: Binary, or of other cells only the holding ones are corrected.
        scheduler: As for `record`.
        num_images: As for `record`.
        seed: As for `record`.
        call_kwargs: As for `record`.
        conditions: As for `record`.

    Returns:
        A plan for `stepmask.apply` and `stepmask.evaluate`. Its mask's provenance has ``denoiser_calls`` and
        ``seconds`` of both halves.
    """
    steps = mask.num_inference_steps
    task = Task(pipe, steps, scheduler=scheduler, seed=seed, call_kwargs=call_kwargs, conditions=conditions)
    run = WatchedRun(task, num_images)
    mask.check(graph=task.graph)
    plan = make_plan(mask, task.graph)
    fit = _Fit(plan)
    run(fit.policy, fit)
    took = run.effort.facts()
    before = {name: mask.provenance.get(name, 0) for name in took}
    provenance = {**mask.provenance, "scale_shift": True, **{name: before[name] + took[name] for name in took}}
    return ScaledPlan.of(replace(plan, mask=replace(mask, provenance=provenance)), fit.corrections)


class _Fit:
    """Runs a mask, computes beside every held value what it stands for, and corrects it at once."""

    def __init__(self, plan: Plan) -> None:
        within, computes = plan.graph.within, full_actions(plan.mask, plan.graph) == Action.compute
        self._states, self._called = plan.states, plan.called
        self._compute = [without_what_rests(row, within) for row in rows_of(computes)]
        held = (plan.states == State.reuse) & ~plan.called
        self._afresh = [inside_of(row, within) for row in rows_of(held)]
        self._running, self._weights = RunPlan(plan), plan.weights
        self._row = 0
        self.corrections: dict[tuple[int, int], list[Affine]] = {}

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        self._row = position.row
        return forward()

    def policy(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """What the executor will hand out; dead cells follow the mask, so that all values are numbers."""
        key = self._row, site
        reused = self._states[key] in (State.reuse, State.forecast)
        if step == 0 or (self._compute[self._row] >> site & 1 and not reused):
            value = compute()
            cache.put(site, value, step, keep=self._weights[site].shape[1] if site in self._weights else 2)
            return value
        if self._afresh[self._row] >> site & 1:
            return compute()  # for the sake of the held value of what it lies within
        if self._states[key] == State.forecast:
            return self._running.forecast(step, site, cache)
        held = cache.get(site)
        if not reused:
            return held
        if self._called[key] or key not in self.corrections:
            true = compute()
            if key not in self.corrections:
                pairs = zip(take_apart(held)[0], take_apart(true)[0], strict=True)
                self.corrections[key] = [least_squares(before, now) for before, now in pairs]
        return corrected(held, self.corrections[key])


@torch.no_grad()
def least_squares(held: Tensor, true: Tensor) -> Affine:
    """The scale and shift per channel that bring one value nearest to another.

    Args:
        held: (N, L, C), or (N, C, ...).
        true: The same shape.
    """
    dim = channel_dim(held)
    x, y = (tensor.movedim(dim, 0).flatten(1).double() for tensor in (held, true))
    mean_x, mean_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    variance = (x - mean_x).square().mean(1)
    covariance = ((x - mean_x) * (y - mean_y)).mean(1)
    flat = variance <= 1e-12 * mean_x.square().flatten() + 1e-30  # a constant tells nothing of a scale
    scale = torch.where(flat, torch.ones_like(variance), covariance / variance.clamp_min(1e-30))
    shift = mean_y.flatten() - scale * mean_x.flatten()
    return Affine(scale.float(), shift.float())
