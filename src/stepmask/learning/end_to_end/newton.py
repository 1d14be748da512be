"""Weights of forecasts from the final image without gradients: one Gauss-Newton step, its slopes by differences.

Each forecast of a site that contains others has a few numbers: how far it goes along its slope, and along the terms
after that. One run with each of them changed a little says what the final images make of it. The changes that would
make the error of the images least, if it were linear, are found by least squares; nearer ones too, which trust that
less. What is best on other images is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepmask.graph import BlockGraph
from stepmask.learning.end_to_end.tables import Table
from stepmask.liveness import State, make_plan
from stepmask.mask import StepMask
from stepmask.mask_tables import Weights

DIFFERENCE = 0.1
"""How far a number is changed to see what comes of it, in units of the slope."""

DAMPING = (0.01, 0.1, 1.0)
"""How much each change costs in the least squares, as a share of what it does; each is tried."""

MOST_CHANGE = 3.0
"""No number changes by more, however little it seems to do."""

MOST_NUMBERS = 128
"""So many numbers are changed one by one; of more, neighbouring steps change together."""

MOST_ENTRIES = 2**16
"""Of an error with more entries so many are drawn."""

Errors = Callable[[list[Table]], list[Tensor]]
"""The errors of some images under tables, each (N, D) in float64 on the host."""


@dataclass(frozen=True)
class _Number:
    """One number: a factor of one term, at some rows of a site."""

    site: str
    rows: tuple[int, ...]
    term: int


def newton_step(mask: StepMask, graph: BlockGraph, errors: Errors, errors_elsewhere: Errors) -> Table:
    """The table of a mask with better weights; with its own where none are better on other images.

    Args:
        mask: Over all sites, with weights for all that shall change.
        graph: Its sites.
        errors: Of the images that weights are fitted on.
        errors_elsewhere: Of other images.
    """
    table, numbers = Table.of(mask, graph), list(_numbers(mask, graph))
    if not numbers:
        return table
    changed = [_moved(table, [one], [DIFFERENCE]) for one in numbers]
    before, *after = map(_drawn, errors([table, *changed]))
    slopes = torch.stack([(error - before) / DIFFERENCE for error in after])  # (P, N, D)
    weight = 1 / before.square().sum(1).clamp_min(1e-20)  # so that all images count alike in decibels
    normal = torch.einsum("pnd,qnd,n->pq", slopes, slopes, weight)
    right = torch.einsum("pnd,nd,n->p", slopes, before, weight)
    proposed = [table]
    for damping in DAMPING:
        strength = damping * torch.maximum(normal.diagonal(), 0.01 * normal.diagonal().mean()) + 1e-12
        changes = -torch.linalg.solve(normal + torch.diag(strength), right)
        proposed.append(_moved(table, numbers, changes.clamp(-MOST_CHANGE, MOST_CHANGE).tolist()))
    found = [error.square().sum(1).clamp_min(1e-20).log().mean().item() for error in errors_elsewhere(proposed)]
    return proposed[int(np.argmin(found))]


def _numbers(mask: StepMask, graph: BlockGraph) -> Iterator[_Number]:
    """What may change: at rows that forecast, the terms whose values are known by then."""
    states = make_plan(mask, graph).states
    known = np.cumsum(mask.compute, axis=0)
    for site, table in (mask.weights or {}).items():
        column = mask.sites.index(site)
        rows = np.flatnonzero(states[:, graph.names.index(site)] == State.forecast)
        terms = range(1, table.shape[1])
        of_terms = {term: [row for row in rows if known[row, column] > term] for term in terms}
        groups = max(1, MOST_NUMBERS // (len(terms) * len(mask.weights)))
        for term, having in of_terms.items():
            for group in np.array_split(having, min(groups, max(1, len(having)))):
                if len(group):
                    yield _Number(site, tuple(map(int, group)), term)


def _moved(table: Table, numbers: Iterable[_Number], by: Iterable[float]) -> Table:
    """Each number changed by so much: a slope in proportion to what it is, the terms after it in all channels alike."""
    weights: Weights = {site: values.copy() for site, values in table.weights.items()}
    for number, change in zip(numbers, by, strict=True):
        rows = list(number.rows)
        factor = table.weights[number.site][rows, 1] if number.term == 1 else 1.0
        weights[number.site][rows, number.term] += change * factor
    return Table(table.actions, table.gains, table.channel_gains, weights)


def _drawn(error: Tensor) -> Tensor:
    """(N, D), of more entries some, always the same."""
    if error.shape[1] <= MOST_ENTRIES:
        return error
    return error[:, torch.randperm(error.shape[1], generator=torch.Generator().manual_seed(0))[:MOST_ENTRIES]]
