"""Published predictors as (T, T) tables: row t has what the prediction at step t makes of each value computed before.

Where a predictor reads its own predictions too, they are put in place, so that only computed values remain. Rows that
compute, have themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Basis = Callable[[int, float], float]
"""Of an order and a distance in steps: what stands for ``distance ** order``."""


def monomial(order: int, distance: float) -> float:
    """TaylorSeer's basis."""
    return float(distance**order)


def scaled_hermite(order: int, distance: float, contraction: float = 0.5) -> float:
    """HiCache's basis: a physicist's Hermite polynomial, scaled within and without (arXiv 2508.16984)."""
    last = [0.0] * order + [1.0]
    return contraction**order * float(np.polynomial.hermite.hermval(contraction * distance, last))


def differences(computed: Sequence[int], num_rows: int, order: int, basis: Basis = monomial) -> np.ndarray:
    """The sum of backward differences over their factorials, times the basis at the distance from the newest value.

    A difference of order i + 1 is the change of that of order i since the latest computed step, divided by the number
    of steps between both, as TaylorSeer computes it. On even spacing it is the difference quotient.

    Args:
        computed: Steps that compute, 0 the first.
        num_rows: T.
        order: The highest difference; as high as there are values for yet.
        basis: What stands for powers of the distance.
    """
    table = np.eye(num_rows)
    found, newest = [], 0
    for row in range(num_rows):
        if row in computed:
            now = [np.eye(num_rows)[row]]
            for before in found[:order]:
                now.append((now[-1] - before) / (row - newest))
            found, newest = now, row
        else:
            distance = row - newest
            table[row] = sum(basis(i, distance) / math.factorial(i) * part for i, part in enumerate(found))
    return table


def chebyshev(
    computed: Sequence[int], num_rows: int, degree: int = 4, ridge: float = 0.1, share: float = 1.0
) -> np.ndarray:
    """Ridge regression on Chebyshev polynomials of the step over all computed values, mixed with a line.

    Args:
        computed: Steps that compute, 0 the first.
        num_rows: T; the steps 0 to T are mapped to -1 to 1.
        degree: Of the highest polynomial.
        ridge: Added to the diagonal of the normal equations.
        share: Of the regression; the rest is the line through the two newest values.
    """
    design = np.polynomial.chebyshev.chebvander(2 * np.arange(num_rows) / num_rows - 1, degree)
    line = differences(computed, num_rows, 1)
    table = np.eye(num_rows)
    for row in range(num_rows):
        if row not in computed:
            known = [step for step in computed if step < row]
            seen = design[known]
            normal = seen.T @ seen + ridge * np.eye(degree + 1)
            table[row] = (1 - share) * line[row]
            table[row, known] += share * (seen @ np.linalg.solve(normal, design[row]))
    return table


def average_velocity(computed: Sequence[int], times: Sequence[float], spans: Sequence[int]) -> np.ndarray:
    """The newest velocity, corrected by the derivative that the steps before it tell: MeanCache's predictor.

    The derivative is the change from the velocity K steps back to the average velocity since then, divided by the time
    in between. It reads the predictions of steps that did not compute.

    Args:
        computed: Steps that compute, 0 the first.
        times: T + 1, of each step and of the end of the run.
        spans: (T,) K at each step that predicts.
    """
    passed = np.diff(np.asarray(times, dtype=float))
    table = np.eye(len(passed))
    for row in range(len(passed)):
        if row not in computed:
            window = slice(row - min(int(spans[row]), row), row)
            table[row] = table[row - 1]
            if gone_by := passed[window].sum():  # some solvers stand still for a step
                average = passed[window] @ table[window] / gone_by
                table[row] -= (table[window.start] - average) / gone_by * passed[row]
    return table


def rolled_out(one_step: np.ndarray, computed: Sequence[int]) -> np.ndarray:
    """The table of a predictor that tells each step from all steps before it, those that were predicted among them.

    Args:
        one_step: (T, T): row t says what the value at step t is made of; of its entries those before t count.
        computed: Steps that compute, 0 the first.
    """
    table = np.eye(len(one_step))
    for row in range(len(one_step)):
        if row not in computed:
            table[row] = one_step[row, :row] @ table[:row]
    return table
