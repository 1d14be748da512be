"""Draws and mixed values: exact where they must be, unbiased where they are said to be."""

import pytest
import torch

from stepmask.learning.paper.relaxations import draw, interpolated, mix, per_image
from tiny import generator

SAMPLINGS = ("random", "gumbel", "interpolation")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


SPECIAL = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.5, 1e-45])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_mix_is_exact_at_0_and_1(weight):
    fresh, cached = (grid.contiguous() for grid in torch.meshgrid(SPECIAL, SPECIAL, indexing="ij"))
    mixed = mix(torch.full((len(fresh), 1), weight), fresh, cached)
    assert torch.equal(bits(mixed), bits(fresh if weight else cached))


def test_mix_is_exact_for_some_images_and_soft_for_others():
    fresh, cached = torch.full((4, 7), 3.0), torch.full((4, 7), 5.0)
    fresh[0], cached[1] = SPECIAL, SPECIAL
    mixed = mix(torch.tensor([1.0, 0.0, 0.25, 0.75])[:, None], fresh, cached)
    assert torch.equal(bits(mixed[:2]), bits(torch.stack([SPECIAL, SPECIAL])))
    assert torch.equal(mixed[2:], torch.tensor([4.5, 3.5])[:, None].expand(2, 7))


def test_mix_keeps_the_dtype():
    fresh, cached = torch.ones(1, 2, dtype=torch.bfloat16), torch.zeros(1, 2, dtype=torch.bfloat16)
    mixed = mix(torch.tensor([[0.5]]), fresh, cached)
    assert mixed.dtype == torch.bfloat16 and mixed.tolist() == [[0.5, 0.5]]


def test_frames_that_are_folded_into_the_batch_belong_to_their_video():
    frames = per_image(torch.tensor([1.0, 2.0]), torch.zeros(6, 5))
    assert frames.flatten().tolist() == [1, 1, 1, 2, 2, 2]
    guided = per_image(torch.tensor([1.0, 2.0]), torch.zeros(8, 5), 2)
    assert guided.flatten().tolist() == [1, 1, 2, 2, 1, 1, 2, 2]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_draws_are_reproducible(sampling):
    scores = torch.linspace(0.05, 0.95, 9)
    one, same = (draw(scores, 4, sampling, 0.5, generator(3)) for _ in range(2))
    other = draw(scores, 4, sampling, 0.5, generator(4))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert one.weight.shape == one.slope.shape == one.refresh.shape == (4, 9) and one.refresh.dtype == torch.bool
    assert torch.equal(one.weight, other.weight) == (sampling == "interpolation")


@pytest.mark.parametrize("sampling", ["random", "gumbel"])
def test_an_image_computes_as_often_as_its_score_says(sampling):
    scores, count = torch.tensor([0.1, 0.3, 0.5, 0.92]), 20_000
    drawn = draw(scores, count, sampling, 0.5, generator())
    five_sigma = 5 * (scores * (1 - scores) / count).sqrt()
    assert ((drawn.refresh.float().mean(0) - scores).abs() < five_sigma).all()
    assert torch.equal(drawn.refresh, drawn.weight > 0.5)
    if sampling == "random":
        assert set(drawn.weight.unique().tolist()) == {0.0, 1.0} and (drawn.slope == 1).all()


def test_images_draw_for_themselves_and_certain_scores_are_certain():
    drawn = draw(torch.tensor([0.0, 0.5, 1.0]), 64, "random", 0.5, generator())
    assert 0 < drawn.weight[:, 1].sum() < 64
    assert (drawn.weight[:, 0] == 0).all() and (drawn.weight[:, 2] == 1).all()


def test_interpolation_hands_out_the_score_itself():
    drawn = draw(torch.tensor([0.2, 0.5, 0.7]), 2, "interpolation", 0.5, generator())
    assert torch.equal(drawn.weight, torch.tensor([0.2, 0.5, 0.7]).expand(2, 3)) and (drawn.slope == 1).all()
    assert drawn.refresh.tolist() == [[False, False, True]] * 2, "Eq. 4 refreshes where s > 0.5"
    assert interpolated(torch.tensor([[0.05, 0.2]]), 0.1).refresh.tolist() == [[False, True]]


@pytest.mark.parametrize("temperature", [0.3, 0.5, 2.0])
def test_slope_of_gumbel_is_the_derivative(temperature):
    scores, eps = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-6
    low, middle, high = (draw(scores + shift, 8, "gumbel", temperature, generator(1)) for shift in (-eps, 0.0, eps))
    numerical = (high.weight - low.weight) / (2 * eps)
    assert torch.allclose(middle.slope, numerical, rtol=1e-4, atol=1e-8)
    assert (middle.slope > 0).all()
