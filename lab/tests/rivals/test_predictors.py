"""Tables of predictors against closed forms, published numbers, and loops written as their authors describe them."""

import itertools
import math

import numpy as np
import pytest
import torch

from stepmask_lab.rivals.l2p.plan import SCHEDULES, weights
from stepmask_lab.rivals.meancache.plan import meancache, stretches
from stepmask_lab.rivals.outputs import Outputs
from stepmask_lab.rivals.paths import cheapest_path
from stepmask_lab.rivals.predictors import (
    average_velocity,
    chebyshev,
    differences,
    rolled_out,
    scaled_hermite,
)
from stepmask_lab.rivals.spectrum.plan import growing_steps
from stepmask_lab.rivals.taylorseer.plan import every

ROWS = 12
EVEN = [0, 3, 6, 9]
RANDOM = np.random.default_rng(0)


def outputs_of(values, times=None):
    """What a run with these values (T, D) records."""
    products = values @ values.T
    times = np.linspace(1, 0, len(values) + 1) if times is None else times
    products = (products / np.trace(products) * len(values))[None]
    return Outputs(products, products, times, -np.diff(times), {}, None)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_differences_continue_what_their_order_can(order):
    """On even spacing the first difference is exact on lines; of order 0 nothing moves."""
    values = np.arange(ROWS) * 2.0 + 1
    table = differences(EVEN, ROWS, order)
    assert np.allclose((table @ values)[4:], values[4:])
    assert np.allclose(differences(EVEN, ROWS, 0) @ values, [1, 1, 1, 7, 7, 7, 13, 13, 13, 19, 19, 19])


def test_the_second_difference_is_taylorseers():
    """F + x (F - G) / N + x^2 / 2 (F - 2 G + H) / N^2 from the values at distance N."""
    table = differences(EVEN, ROWS, 2)
    x, n = 2, 3
    wanted = np.zeros(ROWS)
    wanted[[9, 6, 3]] = [1 + x / n + x * x / 2 / n**2, -x / n - x * x / n**2, x * x / 2 / n**2]
    assert np.allclose(table[11], wanted)
    assert np.array_equal(table[1], np.eye(ROWS)[0]), "of one value, that"


def test_hermite_polynomials_are_those_of_the_paper():
    x, sigma = 3.0, 0.5
    by_hand = [1, 2 * sigma * x, 4 * (sigma * x) ** 2 - 2, 8 * (sigma * x) ** 3 - 12 * sigma * x]
    assert np.allclose([scaled_hermite(n, x, sigma) for n in range(4)], [sigma**n * h for n, h in enumerate(by_hand)])
    line = np.arange(ROWS, dtype=float)
    exact = differences(EVEN, ROWS, 1, lambda n, d: scaled_hermite(n, d, math.sqrt(0.5)))
    assert np.allclose((exact @ line)[3:], line[3:]), "a contraction of 1 over the root of 2 is exact on lines"


def test_chebyshev_recovers_polynomials_where_the_ridge_is_small():
    computed = [0, 1, 2, 3, 5, 8]
    values = np.polynomial.chebyshev.chebval(2 * np.arange(ROWS) / ROWS - 1, [1.0, -2, 0.5, 0.3, 1])
    assert np.allclose((chebyshev(computed, ROWS, 4, 1e-9) @ values)[9:], values[9:], atol=1e-4)
    shrunk = chebyshev([0], ROWS, 0, 0.1)
    assert shrunk[5, 0] == pytest.approx(1 / 1.1), "one value, one constant: the ridge draws it to zero"
    assert np.allclose(chebyshev(computed, ROWS, 4, 0.1, share=0), differences(computed, ROWS, 1))


def test_spectrum_has_as_many_steps_as_its_authors_say():
    assert [len(growing_steps(50, growth)) for growth in (0.75, 3.0)] == [14, 10]
    assert growing_steps(50, 0.75)[:9] == [0, 1, 2, 3, 4, 6, 8, 11, 15]
    assert growing_steps(20, 0) == [0, 1, *range(3, 20, 2)]


def test_taylorseer_computes_first_and_then_at_intervals():
    assert every(12, 4) == [0, 1, 2, 6, 10] and every(2, 4) == [0, 1]


@pytest.mark.parametrize("span", [1, 2, 4])
def test_average_velocity_is_what_a_loop_over_latents_makes(span):
    """As in the authors' loop: the derivative is told by latents and times before and after the steps of the window."""
    computed, times = [0, 1, 2, 5, 8], np.linspace(1, 0, ROWS + 1) ** 1.5
    values = RANDOM.standard_normal((ROWS, 3))
    latents, velocities = [np.zeros(3)], []
    for row in range(ROWS):
        if row in computed:
            velocity = values[row]
        else:
            window = min(span, row)
            average = (latents[-1] - latents[-1 - window]) / (times[row] - times[row - window])
            derivative = (velocities[-window] - average) / (times[row] - times[row - window])
            velocity = velocities[-1] - derivative * (times[row + 1] - times[row])
        velocities.append(velocity)
        latents.append(latents[-1] + (times[row + 1] - times[row]) * velocity)
    table = average_velocity(computed, times, [span] * ROWS)
    assert np.allclose(table @ values, velocities)
    assert span > 1 or np.array_equal(table, differences(computed, ROWS, 0)), "a span of 1 holds"


def test_velocities_hold_where_time_stands_still():
    times = np.repeat(np.linspace(1, 0, ROWS // 2 + 1), 2)[: ROWS + 1]
    table = average_velocity([0, 2, 4], times, [1] * ROWS)
    assert np.isfinite(table).all() and np.array_equal(table[1], np.eye(ROWS)[0])


def test_predictions_stand_in_for_what_was_skipped():
    one_step = np.diag(np.full(ROWS - 1, 2.0), -1)
    table = rolled_out(one_step, [0, 4])
    assert [table[row].nonzero()[0].tolist() for row in (0, 3, 4, 6)] == [[0], [0], [4], [4]]
    assert [table[row].max() for row in (1, 2, 3, 5)] == [2, 4, 8, 2]


def test_l2p_fits_as_its_authors_do():
    """Adam on the features themselves, from the next to the last on the diagonal, what comes later masked."""
    features = torch.from_numpy(np.cumsum(RANDOM.standard_normal((ROWS, 30)), 0))
    weight = torch.eye(ROWS, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weight], lr=0.01)
    for _ in range(201):
        loss = ((weight.tril() @ features)[:-1] - features[1:]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = weights(outputs_of(features.numpy()))
    assert np.allclose(found[1:, :-1], weight.tril()[:-1, :-1].detach().numpy(), atol=1e-3)
    assert np.array_equal(weights(outputs_of(features.numpy()), 0), np.eye(ROWS, k=-1)), "they begin by holding"


def test_l2p_follows_a_recurrence_better_than_holding():
    values = list(RANDOM.standard_normal((2, 40)))
    for _ in range(ROWS - 2):
        values.append(1.6 * values[-1] - 0.7 * values[-2])
    values = np.stack(values)
    outputs = outputs_of(values)
    found, held = (
        (rolled_out(weights(outputs, iterations), [0, 1, 5]) - np.eye(ROWS)) @ values for iterations in (201, 0)
    )
    assert np.linalg.norm(found) < 0.2 * np.linalg.norm(held)


def test_l2ps_published_key_steps_are_as_many_as_their_speed_says():
    """50 steps at a measured 4.55x: 11 key steps."""
    assert {interval: len(steps) for interval, steps in SCHEDULES.items()} == {5: 11, 6: 10, 7: 9, 8: 8}
    assert 50 / len(SCHEDULES[5]) == pytest.approx(4.55, abs=0.01)


@pytest.mark.parametrize(("count", "first"), [(4, 1), (4, 3), (3, 3), (2, 3), (7, 2)])
def test_the_path_is_the_cheapest_of_all(count, first):
    rows = 7
    cost = RANDOM.random((rows, rows, rows + 1))

    def total(path):
        ends = [0, *path, rows]
        first_counted = min(first, count) - 1
        return sum(cost[ends[n], ends[n + 1], ends[n + 2]] for n in range(first_counted, len(path)))

    fixed = range(min(first, count))
    every_path = [(*fixed, *rest) for rest in itertools.combinations(range(len(fixed), rows), count - len(fixed))]
    forward = cost.copy()
    for j, k in itertools.product(range(rows), range(rows)):
        if k <= j:
            forward[:, j, k] = np.inf
    assert cheapest_path(forward, count, first) == list(min(every_path, key=total))


def test_a_stretch_of_meancache_costs_how_far_its_average_velocity_leads_astray():
    values, times = RANDOM.standard_normal((6, 5)), np.array([1.0, 0.9, 0.7, 0.6, 0.3, 0.1, 0.0])
    values /= np.sqrt(np.mean(np.sum(values**2, 1)))
    errors = stretches(outputs_of(values, times), (1, 2))
    passed = -np.diff(times)
    away = passed[1:4] @ (values[1] - values[1:4])
    assert errors[0, 1, 4] == pytest.approx(np.linalg.norm(away))
    assert errors[0, 2, 3] == 0 and np.isinf(errors[0, 3, 2])


def test_meancache_goes_from_the_first_step_to_the_last(monkeypatch):
    """As all schedules in the authors' code do; where nothing changes, but at one place, it computes there."""
    values = np.concatenate([np.zeros(5), np.ones(5)])[:, None] @ np.ones((1, 3)) + 1
    outputs = outputs_of(values)
    monkeypatch.setattr(Outputs, "mask", lambda self, steps, **known: (steps, known))
    steps, known = meancache(outputs, count=3)
    assert steps == [0, 5, 9] and len(known["spans"]) == 10
