"""Inception score, kernel distance, precision and recall against closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal import check_refused
from stepmask_lab.scores import set_statistics
from stepmask_lab.scores.set_statistics import covered, inception_score, kernel_distance, kernel_distance_of_subsets


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [2, 10])
def test_inception_score_of_sure_and_of_unsure_classifiers(classes):
    assert inception_score(torch.full((40, classes), 1 / classes)) == pytest.approx(1)
    assert inception_score(torch.eye(classes).repeat(4, 1)) == pytest.approx(classes)
    assert inception_score(torch.eye(classes)[[0] * 40]) == pytest.approx(1), "always the same class"


def test_inception_score_of_splits_is_the_mean_over_parts():
    sure = torch.eye(4).repeat_interleave(10, 0)
    assert inception_score(sure) == pytest.approx(4)
    assert inception_score(sure, splits=4) == pytest.approx(1), "every part has one class"
    assert inception_score(sure, splits=2) == pytest.approx(2)
    check_refused("splits must be between 1 and the number of images, 40; got 41", inception_score, sure, splits=41)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 20), classes=st.integers(2, 6), sharpness=st.floats(0, 20))
def test_inception_score_lies_between_one_and_the_number_of_classes(seed, count, classes, sharpness):
    score = inception_score((sharpness * normal(count, classes, seed=seed)).softmax(1))
    assert 1 - 1e-9 <= score <= min(classes, count) + 1e-9


def kernel_distance_by_hand(x, y):
    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    within = [sum(kernel(v[i], v[j]) for i in range(len(v)) for j in range(len(v)) if i != j) for v in (x, y)]
    cross = sum(kernel(a, b) for a in x for b in y)
    n, m = len(x), len(y)
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * cross / (n * m)


def test_kernel_distance_is_its_formula(monkeypatch):
    monkeypatch.setattr(set_statistics, "CHUNK", 3)
    x, y = normal(7, 4), normal(8, 4, seed=1) + 0.5
    assert kernel_distance(x, y).item() == pytest.approx(kernel_distance_by_hand(x, y))


def test_kernel_distance_with_multiplicities_compares_no_image_with_its_copy():
    """Of all draws of the same size, the mean over pairs of different images."""
    x, y = normal(5, 3), normal(6, 3, seed=1)
    twice = torch.full((1, 5), 2.0)
    plain, doubled = kernel_distance(x, y), kernel_distance(x, y, twice)
    assert doubled.item() == pytest.approx(plain.item()), "pairs of copies are left out"
    some = torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.0], [1.0] * 5])
    wanted = [kernel_distance(x[[0, 1, 3]], y).item(), plain.item()]
    assert kernel_distance(x, y, some).tolist() == pytest.approx(wanted)


def test_kernel_distance_is_unbiased_at_any_size():
    """Two sets of one distribution: zero on average, for small and for larger sets."""
    for count in (5, 40):
        values = torch.cat(
            [kernel_distance(normal(count, 3, seed=s), normal(9, 3, seed=s + 10_000)) for s in range(800)]
        )
        assert abs(values.mean()) < 4 * values.std() / 800**0.5
        assert values.min() < 0 < values.max()


def test_kernel_distance_of_subsets():
    x, y = normal(60, 4), normal(50, 4, seed=1) + 0.5
    whole = kernel_distance(x, y).item()
    mean, spread = kernel_distance_of_subsets(x, y, subset_size=20, num_subsets=200)
    assert abs(mean - whole) < 4 * spread / 200**0.5 and spread > 0
    assert kernel_distance_of_subsets(x, y, 20, 3, seed=1) == kernel_distance_of_subsets(x, y, 20, 3, seed=1)
    check_refused("the smaller set, 50; got 51", kernel_distance_of_subsets, x, y, subset_size=51)


def test_identical_sets_cover_each_other_and_distant_ones_do_not():
    x = normal(30, 5)
    assert covered(x, x).all() and covered(x + 1e3, x + 1e3).all()
    assert not covered(x + 100, x).any() and not covered(x, x + 100).any()


def test_what_a_set_covers_in_one_dimension():
    """Members at 0, 1, 2, 10: their second neighbours are 2, 1, 2 and 9 away."""
    members = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    points = torch.tensor([[-2.0], [-2.01], [3.99], [4.0], [18.99], [19.01], [-100.0]])
    expected = [True, False, True, True, True, False, False]
    assert covered(points, members, k=2).tolist() == expected


def test_copies_are_covered():
    """Their neighbours are at no distance, so only points at no distance are within reach."""
    copies = torch.full((6, 4), 3.3)
    assert covered(copies[:2], copies).all() and not covered(copies + 0.1, copies).any()


@settings(max_examples=20, deadline=None)
@given(count=st.integers(5, 12), seed=st.integers(0, 1000))
def test_chunks_do_not_matter(count, seed):
    x, y = normal(count, 3, seed=seed), normal(7, 3, seed=seed + 1) * 2
    whole = covered(x, y)
    chunk, set_statistics.CHUNK = set_statistics.CHUNK, 2
    try:
        assert covered(x, y).tolist() == whole.tolist()
    finally:
        set_statistics.CHUNK = chunk


def test_refused():
    check_refused("one extractor for both", kernel_distance, normal(5, 3), normal(5, 4))
    check_refused("at least 2 images are needed, got 1 and 5", kernel_distance, normal(1, 3), normal(5, 3))
    check_refused("between 1 and one less than the 3 images of the set, got 3", covered, normal(9, 3), normal(3, 3))
