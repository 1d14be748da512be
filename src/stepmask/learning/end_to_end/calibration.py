"""Weights of forecasts without gradients: at each step those that come nearest to what would be computed there.

One run under the mask, in which every site that forecasts also computes. The weights of each step and channel are
fitted by least squares, from the values that the run has cached by then, and what they make of those is handed out: so
later steps are fitted on what the mask will meet. What a step is off by counts there, not what becomes of it in the
image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stepmask.inspection.overrides import without_decoder
from stepmask.learning.end_to_end.tables import Table
from stepmask.liveness import Plan, State, rows_of
from stepmask.mask_tables import weights_of_a_line
from stepmask.nesting import inside_of
from stepmask.runtime.cache import Cache
from stepmask.runtime.channels import channel_dim
from stepmask.runtime.executor import Executor
from stepmask.runtime.forecasts import terms
from stepmask.runtime.policies import RunPlan
from stepmask.runtime.task import Task
from stepmask.values import Value, put_together, take_apart

NUM_VALUES = 2
"""Of so many values: a third makes the fit of a step nearer, and the images worse."""

RIDGE = 0.01
"""How strongly weights are drawn to those of a line, as a share of what the values weigh."""


def calibrated(task: Task, table: Table, first: int, count: int) -> Table:
    """The table with weights for the forecasts of all sites that contain others.

    Args:
        task: What runs.
        table: Settled.
        first: Number of the first image that is run.
        count: How many images run, at once.
    """
    run = _CalibratingRun(table, task)
    if not run.weights:
        return table
    pipe = task.pipe
    executors = [Executor(one, task.graph, lambda: pipe.scheduler, run.from_row, pipe=pipe) for one in task.denoisers]
    try:
        with torch.no_grad(), without_decoder(pipe):
            task.noise.images(first, count)
    finally:
        for executor in executors:
            executor.remove()
    weights = {task.graph.names[site]: numbers for site, numbers in run.weights.items()}
    actions = table.actions
    return Table.of(Table(actions, table.gains, table.channel_gains, weights).mask(task), task.graph)


class _CalibratingRun:
    """Runs a plan, and fits the weights of each forecast when it is asked for."""

    def __init__(self, table: Table, task: Task) -> None:
        self._plan, graph = table.plan(task), task.graph
        forecasting = (task.run_by(self._plan).states == State.forecast).any(0)
        self.weights: dict[int, np.ndarray] = {
            site: np.tile(weights_of_a_line(NUM_VALUES), (self._plan.num_rows, 1, 1))
            for site in graph.within
            if forecasting[site]
        }
        """(T, K, C) by site."""
        self.known: set[tuple[int, int]] = set()
        """Cells that were fitted: of several calls in a step the first one is."""

    def from_row(self, start: int) -> _Stretch:
        """The policy of a stream that begins at a row."""
        return _Stretch(self, self._plan.from_row(start), start)


class _Stretch:
    """The policy of streams that begin at one row."""

    def __init__(self, run: _CalibratingRun, plan: Plan, start: int) -> None:
        self._run, self._start, self._running, self._states = run, start, RunPlan(plan), plan.states
        self._computing_afresh = False
        forecasts = rows_of(plan.states == State.forecast)
        # the blocks of a list come before what it is asked for
        self._computes_for = [inside_of(row, {s: plan.graph.within[s] for s in run.weights}) for row in forecasts]

    def __call__(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """What the executor hands out."""
        weights, row = self._run.weights, self._start + step
        dead = self._states[step, site] == State.dead  # what is computed afresh may be made of it
        if dead or self._computing_afresh or self._computes_for[step] >> site & 1:
            return compute()
        if site not in weights or self._states[step, site] != State.forecast:
            return self._running(step, site, compute, cache)
        known = [(at, *take_apart(value)) for at, value in cache.known(site)[:NUM_VALUES]]
        parts = [part for _, part, _ in known]
        table = terms([at for at, _, _ in known], step, NUM_VALUES)[: len(known)]
        bases = [
            [sum(share * value for share, value in zip(shares, values, strict=True)) for shares in table.tolist()]
            for values in zip(*parts, strict=True)
        ]
        if (row, site) not in self._run.known:
            self._run.known.add((row, site))
            self._fit(site, row, bases, self._afresh(compute))
        given = iter(np.split(weights[site][row], np.cumsum([_width(one[0]) for one in bases])[:-1], axis=1))
        found = [_weighted(one, next(given)[: len(one)]) for one in bases]
        return put_together(found, known[0][2])

    def _afresh(self, compute: Callable[[], Value]) -> list[Tensor]:
        self._computing_afresh = True
        try:
            return take_apart(compute())[0]
        finally:
            self._computing_afresh = False

    def _fit(self, site: int, row: int, bases: list[list[Tensor]], true: list[Tensor]) -> None:
        columns = [_least_squares(basis, value) for basis, value in zip(bases, true, strict=True)]
        found, weights = np.concatenate(columns, axis=1), self._run.weights
        if weights[site].shape[2] != found.shape[1]:
            weights[site] = np.repeat(weights[site], found.shape[1], axis=2)
        weights[site][row, : len(found)] = found


def _width(value: Tensor) -> int:
    return value.shape[channel_dim(value)]


def _weighted(basis: list[Tensor], weights: np.ndarray) -> Tensor:
    """The sum of K terms, each times a factor (C,) for the channels of the value."""
    total = 0
    for term, factors in zip(basis, weights, strict=True):
        dim = channel_dim(term) % term.dim()
        total = total + term * torch.from_numpy(factors).to(term).view(-1, *[1] * (term.dim() - 1 - dim))
    return total


def _least_squares(basis: list[Tensor], true: Tensor) -> np.ndarray:
    """(K, C): weights of terms (N, ..., C) whose sum comes nearest to a value, drawn to those of a line."""
    dim = channel_dim(true)
    flat = torch.stack([term.movedim(dim, -1).flatten(0, -2).double() for term in basis])  # (K, P, C)
    line = torch.from_numpy(weights_of_a_line(len(basis)))  # (K, 1)
    left = true.movedim(dim, -1).flatten(0, -2).double() - (flat * line[:, None].to(flat)).sum(0)
    normal = torch.einsum("kpc,lpc->ckl", flat, flat).cpu()
    right = torch.einsum("kpc,pc->ck", flat, left).cpu()
    weight = normal.diagonal(dim1=1, dim2=2).mean(0)
    normal = normal + torch.diag(RIDGE * weight + 1e-12)
    return (line + torch.linalg.solve(normal, right).T).clamp(-10, 10).numpy()
