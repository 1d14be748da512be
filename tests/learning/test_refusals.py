"""Quantised denoisers: masks run on them, and what needs gradients through them says so."""

from __future__ import annotations

import warnings

import pytest
import torch

import stepmask
from stepmask import UnsupportedModelError, describe, learn, learning, schedules
from tiny import dit_pipeline, generator

STEPS = 5


def images(pipe, mask=None):
    call = {"class_labels": [1, 2], "num_inference_steps": STEPS, "output_type": "pt", "generator": generator()}
    if mask is None:
        return torch.as_tensor(pipe(**call).images)
    with stepmask.apply(pipe, mask):
        return torch.as_tensor(pipe(**call).images)


@pytest.fixture
def quantised():
    pipe = dit_pipeline()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # announced to move to torchao
        pipe.transformer = torch.ao.quantization.quantize_dynamic(pipe.transformer, {torch.nn.Linear}, torch.qint8)
    return pipe


def test_masks_run_on_them(quantised):
    assert torch.equal(images(quantised, schedules.fora(quantised, STEPS, 1)), images(quantised))
    mask = schedules.fora(dit_pipeline(), STEPS, 2, forecast="linear")
    assert mask.graph == describe(quantised).fingerprint, "what was learned on the plain model fits"
    assert not torch.equal(images(quantised, mask), images(quantised))


@pytest.mark.parametrize("method", ["global", "per-step", "paper", "dip-go"])
def test_what_needs_gradients_refuses_them(method, quantised):
    with pytest.raises(UnsupportedModelError, match=r"linear_1 is a quantised Linear, .*learn on the plain model"):
        learn(quantised, STEPS, 0.6, method=method, progress=False)


def test_what_needs_none_learns_on_them(quantised):
    assert learning.smoothcache(quantised, STEPS, target_macs=0.7).num_rows == STEPS
    options = {"population": 4, "generations": 1, "progress": False}
    assert learn(quantised, STEPS, 0.7, method="ecad", **options).num_rows == STEPS


def test_a_site_that_lets_no_gradient_through_is_named():
    """One branch among others: the gradient that comes back around it would be wrong."""
    pipe = dit_pipeline()
    site = pipe.transformer.transformer_blocks[1].ff
    site.net[2].register_forward_hook(lambda module, args, output: output.detach())
    with pytest.raises(UnsupportedModelError, match=r"no gradient passes through transformer_blocks\.1\.ff"):
        learn(pipe, STEPS, 0.6, progress=False)
