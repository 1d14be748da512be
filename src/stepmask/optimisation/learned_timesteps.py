"""Timesteps learned through the chain: those whose final samples come nearest to those of the converged run.

As LD3 (arXiv 2405.15506) they are learned by how the final sample changes with each timestep. That is measured: a run
with one of them moved, for each of them. So it works for every pipeline and every solver, timesteps may be whole
numbers, and no graph is kept; and since all these changes are known, and not their sum alone as by a gradient on the
way back, a few steps of Gauss and Newton are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stepmask.optimisation.closed_form import distinct

Run = Callable[[Sequence[float]], Tensor]
"""Makes final samples (N, ...) with these timesteps, always of the same noise."""

MOVE = 0.1
"""By so much of the gap to its neighbour a timestep is moved to see what changes."""
DAMPING = 0.1
"""Share of the diagonal that is added, as Levenberg and Marquardt do."""
TRIES, SHORTER = 4, 0.4
"""So many lengths of a step are tried where it did not help, each so many times the one before."""
FAR = 0.5
"""No timestep moves over more than this share of the gap to its neighbour at once."""


def learned_timesteps(
    run: Run,
    start: Sequence[float],
    reference: Tensor,
    *,
    whole: bool,
    iterations: int = 3,
    tell: Callable[[float], None] = lambda decibels: None,
) -> tuple[float, ...]:
    """Timesteps whose final samples are nearest to a reference, from a start on. The first one stays.

    Args:
        run: Makes final samples.
        start: T falling timesteps.
        reference: (N, ...) what they should be.
        whole: Whether timesteps are whole numbers.
        iterations: Steps of Gauss and Newton; each takes T - 1 runs and one to four more.
        tell: Called after each iteration with the ratio of the reference's power to that of the error, in dB.

    Returns:
        The timesteps; the start where nothing was better.
    """
    times = np.array(distinct(np.array(start, float), whole))
    made = run(times.tolist())
    best = _decibels(made, reference)
    for _ in range(iterations if len(times) > 1 else 0):
        changes = torch.stack([_change(run, times, i, made, whole) for i in range(1, len(times))])
        error = (reference - made).flatten(1).double()
        # each image counts by its share of error, as in the mean of decibels
        weights = 1 / error.square().mean(1).clamp_min(1e-12)
        changes = changes.flatten(2).double()
        normal = torch.einsum("ind,jnd,n->ij", changes, changes, weights)
        right = torch.einsum("ind,nd,n->i", changes, error, weights)
        step = torch.linalg.solve(normal + DAMPING * torch.diag(normal.diagonal() + 1e-12), right).numpy()
        step *= min(1.0, _room(times, step))
        for _ in range(TRIES):
            moved = times.copy()
            moved[1:] += step
            moved = np.array(distinct(np.minimum(moved, times[0]), whole))
            trial = run(moved.tolist())
            reached = _decibels(trial, reference)
            if reached > best:
                times, made, best = moved, trial, reached
                break
            step *= SHORTER
        else:
            break
        tell(best)
    return tuple(times.tolist())


def _change(run: Run, times: np.ndarray, which: int, made: Tensor, whole: bool) -> Tensor:
    """What final samples change by, for a change of one timestep by 1."""
    below = times[which + 1] if which + 1 < len(times) else -1.0
    up, down = times[which - 1] - times[which], times[which] - below
    move = MOVE * min(up, down)
    move = max(1.0, round(move)) if whole else max(move, 1e-3)
    if up <= move:
        move = -move
    if times[which] + move <= below or not 0 <= times[which] + move < times[which - 1]:
        return torch.zeros_like(made)  # there is no room
    moved = times.copy()
    moved[which] += move
    return (run(moved.tolist()) - made) / move


def _room(times: np.ndarray, step: np.ndarray) -> float:
    """How often a step may be made before a timestep has come too near to a neighbour."""
    gaps = -np.diff([*times, 0.0])
    ahead = np.where(step > 0, gaps[:-1], np.maximum(gaps[1:], 1.0))
    return float((FAR * ahead / np.maximum(np.abs(step), 1e-9)).min())


def _decibels(made: Tensor, reference: Tensor) -> float:
    error = (made - reference).flatten(1).double().square().mean(1).clamp_min(1e-12)
    power = reference.flatten(1).double().square().mean(1).clamp_min(1e-12)
    return float(10 * (power / error).log10().mean())
