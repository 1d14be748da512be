"""Moments over batches, and the Fréchet distance against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepmask import StepMaskError
from stepmask_lab.scores.moments import Moments, frechet_distance


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(mean, covariance, count=100):
    return Moments.from_covariance(count, torch.tensor(mean), torch.tensor(covariance))


def rotation(size, seed=0):
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


def test_moments_are_those_of_torch():
    values = normal(50, 4) * 3 + 1
    moments = Moments.of(values)
    assert torch.allclose(moments.mean, values.mean(0)) and torch.allclose(moments.covariance, values.T.cov())


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), offset=st.floats(-1e4, 1e4))
def test_batches_merge_to_the_whole(sizes, offset):
    values = normal(sum(sizes), 3) + offset
    total, *rest = (Moments.of(part) for part in values.split(sizes))
    for part in rest:
        total = total.merge(part)
    whole = Moments.of(values)
    assert total.count == whole.count
    assert torch.allclose(total.mean, whole.mean, rtol=1e-12, atol=1e-9)
    assert torch.allclose(total.scatter, whole.scatter, rtol=1e-9, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    means=st.tuples(*[st.floats(-5, 5)] * 4), deviations=st.tuples(*[st.floats(0, 5)] * 4), seed=st.integers(0, 1000)
)
def test_frechet_distance_of_commuting_gaussians(means, deviations, seed):
    """With common axes it is the sum of (m1 - m2)^2 + (s1 - s2)^2 over axes, however those lie; s may be 0."""
    turn = rotation(2, seed)

    def moments(mean, deviation):
        square = torch.diag(torch.tensor(deviation, dtype=torch.float64) ** 2)
        return Moments.from_covariance(10, turn @ torch.tensor(mean, dtype=torch.float64), turn @ square @ turn.T)

    one, other = moments(means[:2], deviations[:2]), moments(means[2:], deviations[2:])
    expected = sum((means[i] - means[i + 2]) ** 2 + (deviations[i] - deviations[i + 2]) ** 2 for i in range(2))
    assert frechet_distance(one, other) == pytest.approx(expected, abs=1e-6)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """2 x 2: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)), M = C1 C2."""
    one, other = [[2.0, 1.0], [1.0, 2.0]], [[3.0, -1.0], [-1.0, 1.0]]
    product = torch.tensor(one, dtype=torch.float64) @ torch.tensor(other, dtype=torch.float64)
    root = math.sqrt(product.trace() + 2 * math.sqrt(product.det()))
    expected = 1 + 4 + 4 + 4 - 2 * root
    assert frechet_distance(gaussian([1.0, 0.0], one), gaussian([0.0, 2.0], other)) == pytest.approx(expected)


def test_frechet_distance_is_symmetric_and_does_not_change_under_a_rotation():
    one, other, turn = normal(40, 6), normal(50, 6, seed=1) * 2 + 1, rotation(6, seed=2)
    there, back = (frechet_distance(Moments.of(a), Moments.of(b)) for a, b in ((one, other), (other, one)))
    turned = frechet_distance(Moments.of(one @ turn), Moments.of(other @ turn))
    assert there > 1 and there == pytest.approx(back) and there == pytest.approx(turned)


@pytest.mark.parametrize("count", [3, 8, 200])
def test_identical_sets_are_at_no_distance(count):
    """Also with fewer vectors than values, and with values that are always zero."""
    values = normal(count, 8) * 10
    values[:, 5:] = 0
    assert frechet_distance(Moments.of(values), Moments.of(values)) == pytest.approx(0, abs=1e-6)


def test_refused():
    with pytest.raises(StepMaskError, match="at least 2 images, got 1"):
        _ = Moments.of(normal(1, 3)).covariance
    for operation in (Moments.merge, frechet_distance):
        with pytest.raises(StepMaskError, match="3 and 4 values: use one extractor"):
            operation(Moments.of(normal(5, 3)), Moments.of(normal(5, 4)))
