"""The terms of the loss, against the equations and against autograd."""

import pytest
import torch

from stepmask.inspection.describe import description_of
from stepmask.learning.paper.losses import feature_loss, regulariser_gradient, relative_norm, step_weights
from tiny import generator, tiny_model


def test_step_weights_of_equation_10():
    delta = torch.tensor([0.0, 1.0, 0.5, 0.499, 0.1, 0.0999, 0.0])
    assert step_weights(delta).tolist() == [1.0, 1.0, 1.0, 1.5, 1.5, 2.0, 2.0]


def test_step_weights_ignore_the_undefined_first_change():
    delta = torch.tensor([100.0, 4.0, 1.0, 0.2])
    assert step_weights(delta).tolist() == [1.0, 1.0, 1.5, 2.0]
    assert delta[0] == 100, "the argument is left as it is"


def test_step_weights_of_a_single_step():
    assert step_weights(torch.zeros(1)).tolist() == [1.0]


def test_feature_loss_is_relative_and_a_mean_over_images():
    original = torch.zeros(2, 1, 2, 2)
    original[0, 0, 0], original[1, 0, 0] = torch.tensor([3.0, 4.0]), torch.tensor([30.0, 40.0])
    masked = original.clone()
    masked[0, 0, 1, 0] += 1.0  # 1 / 5
    masked[1, 0, 1, 1] += 20.0  # 20 / 50
    assert feature_loss(masked, original).item() == pytest.approx((0.2 + 0.4) / 2)
    assert feature_loss(1000 * masked, 1000 * original).item() == pytest.approx(0.3)


def test_no_difference_has_gradient_zero_not_nan():
    original = torch.randn(3, 4, generator=generator())
    difference = torch.zeros(3, 4)
    difference[1, 2] = 0.5
    difference.requires_grad_()
    relative_norm(difference, original).sum().backward()
    expected = torch.zeros(3, 4)
    expected[1, 2] = 1 / original[1].norm()
    assert torch.allclose(difference.grad, expected)


def test_an_original_of_zero_gives_no_infinity():
    assert relative_norm(torch.ones(1, 2), torch.zeros(1, 2)).isfinite().all()


def test_learned_variance_is_left_out():
    dit = tiny_model("DiTTransformer2DModel")
    original = torch.randn(2, 8, 8, 8, generator=generator())
    masked = original.clone()
    masked[:, 4:] += 7  # the variance, which samplers discard
    assert feature_loss(description_of(dit).used_output((masked,)), description_of(dit).used_output((original,))) == 0
    masked[:, 3] += 7
    assert feature_loss(description_of(dit).used_output((masked,)), description_of(dit).used_output((original,))) > 0
    unet = tiny_model("UNet2DModel")
    assert torch.equal(description_of(unet).used_output((original,)), original)


def test_gradient_of_the_regulariser_against_autograd():
    scores = torch.rand(5, 4, generator=generator(1), dtype=torch.float64).requires_grad_()
    cell_cost = torch.rand(5, 4, generator=generator(2), dtype=torch.float64)
    w = torch.tensor([1.0, 1.0, 2.0, 1.5, 1.0], dtype=torch.float64)
    lambda_1, lambda_2 = 0.3, 0.7
    sparse, bimodal = (cell_cost * scores).sum(1), (scores * (1 - scores)).sum(1)
    (w * (lambda_1 * sparse + lambda_2 * bimodal)).sum().backward()
    assert torch.allclose(regulariser_gradient(scores.detach(), cell_cost, lambda_1, lambda_2, w), scores.grad)
