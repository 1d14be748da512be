"""NSGA-II: fronts, crowding and variation, against their definitions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stepmask_lab.rivals.ecad.nsga2 import POINTS, children, crowding, ranks, survivors

points = hnp.arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(0, 6).map(float))


def test_fronts_of_a_staircase():
    objectives = np.array([[0, 2], [1, 1], [2, 0], [1, 2], [2, 2], [1, 1]], dtype=float)
    assert ranks(objectives).tolist() == [0, 0, 0, 1, 2, 0]


@settings(deadline=None)
@given(points)
def test_a_point_is_in_the_first_front_that_nothing_left_dominates(objectives):
    rank = ranks(objectives)

    def dominates(i, j):
        return (objectives[i] <= objectives[j]).all() and (objectives[i] < objectives[j]).any()

    everyone = range(len(objectives))
    for j in everyone:
        above = [rank[i] for i in everyone if dominates(i, j)]
        assert rank[j] == (max(above) + 1 if above else 0)


def test_the_ends_of_a_front_are_never_crowded():
    objectives = np.array([[0, 9], [1, 8], [2, 1], [9, 0]], dtype=float)
    found = crowding(objectives, ranks(objectives))
    assert np.isinf(found[[0, 3]]).all()
    assert found[1] == 2 / 9 + 8 / 9 and found[2] == 8 / 9 + 8 / 9


def test_survivors_are_those_of_the_best_fronts_and_the_least_crowded_of_the_last():
    objectives = np.array([[5, 5], [0, 9], [1, 8], [2, 1], [9, 0]], dtype=float)
    assert sorted(survivors(objectives, 4)) == [1, 2, 3, 4]
    assert sorted(survivors(objectives, 3)) == [1, 3, 4]


def test_without_mutation_every_gene_comes_from_a_parent_and_changes_side_at_most_as_often_as_it_is_cut():
    parents = np.array([[False] * 40, [True] * 40])
    found = children(parents, np.array([[0.0, 1.0], [1.0, 0.0]]), np.random.default_rng(0), 1.0, 0.0)
    changes = (found[:, 1:] != found[:, :-1]).sum(1)
    assert (changes <= POINTS).all()
    many = np.concatenate(
        [
            children(parents, np.array([[0.0, 1.0], [1.0, 0.0]]), np.random.default_rng(seed), 1.0, 0.0)
            for seed in range(50)
        ]
    )
    assert (many[:, 1:] != many[:, :-1]).sum(1).max() > 1, "some are crossed"


def test_rates_of_zero_copy_the_winners_and_a_rate_of_one_flips_every_gene():
    random = np.random.default_rng(1)
    parents = random.random((6, 10)) < 0.5
    objectives = np.array([[float(i), float(i)] for i in range(6)])
    copies = children(parents, objectives, np.random.default_rng(2), 0.0, 0.0)
    flipped = children(parents, objectives, np.random.default_rng(2), 0.0, 1.0)
    assert all(any(np.array_equal(child, parent) for parent in parents) for child in copies)
    assert np.array_equal(flipped, ~copies)
    wins = sum(
        np.array_equal(child, parents[0])
        for seed in range(60)
        for child in children(parents, objectives, np.random.default_rng(seed), 0.0, 0.0)
    )
    losses = sum(
        np.array_equal(child, parents[5])
        for seed in range(60)
        for child in children(parents, objectives, np.random.default_rng(seed), 0.0, 0.0)
    )
    assert wins > 3 * losses, "the best of all wins every tournament that it is in"
