"""Calibration: recorded runs play back, and importance equals a recomputation by plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler

from fakes import TwoCalls, assert_unchanged, snapshot
from stepmask.architectures import denoiser_of
from stepmask.learning.importance import _Recorder, calibrate
from stepmask.learning.losses import relative_norm
from stepmask.learning.riding import riding
from stepmask.runtime.sampling import SamplerLoop, sample, without_decoder
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline, tiny_model

STEPS = 5
LABELS = {"class_labels": [3, 7]}
PIPELINES = {
    "DDIMPipeline": (ddim_pipeline, {"batch_size": 2}),
    "DDPMPipeline": (ddpm_pipeline, {"batch_size": 2}),
    "DiTPipeline": (dit_pipeline, LABELS),
    "Heun": (lambda: SamplerLoop(tiny_model("UNet2DModel"), HeunDiscreteScheduler()), {"batch_size": 2}),
    "two calls": (lambda: TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler()), LABELS),
    "two calls, the second late": (
        lambda: TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler(), begin=2),
        LABELS,
    ),
}


def caller(pipe, arguments, steps=STEPS):
    return lambda: sample(pipe, arguments, [0, 1], steps)


@pytest.mark.parametrize("name", PIPELINES)
def test_what_was_recorded_plays_back_to_the_same_image(name):
    make, arguments = PIPELINES[name]
    pipe = make()
    call, recorder, computed = caller(pipe, arguments), _Recorder(denoiser_of(pipe)), []

    def compute(step, site, compute, cache):
        computed.append(step)
        return compute()

    with riding(pipe, compute, recorder):
        final = call()
        assert computed
        computed.clear()
        recorder.spoiled_row = 10**6
        assert torch.equal(call(), final) and not computed, "nothing is computed, everything is played back"
        recorder.spoiled_row, recorder.spoiled_by = 3, 0.0
        assert not torch.equal(call(), final) and computed and recorder.spoiled_by > 0


@torch.no_grad()
def brute_force(pipe, call, row: int) -> tuple[float, float]:
    """Error of the final image, and of the output of one row, if that row hands out the output of the row before."""
    denoiser = denoiser_of(pipe)
    outputs, position = [], 0

    def swap(module, args, output):
        nonlocal position
        sample = output[0].clone()
        if recording:
            outputs.append(sample)
        elif position == row:
            sample = outputs[row - 1]
        position += 1
        return (sample,) if isinstance(output, tuple) else type(output)(sample=sample)

    hook = denoiser.register_forward_hook(swap)
    with without_decoder(pipe):
        recording = True
        final = call()
        recording, position = False, 0
        spoiled = call()
    hook.remove()
    channels = denoiser.config.in_channels
    before, now = outputs[row - 1][:, :channels], outputs[row][:, :channels]
    return relative_norm(spoiled - final, final).mean().item(), relative_norm(before - now, now).mean().item()


@pytest.mark.parametrize("name", ["DDIMPipeline", "DDPMPipeline", "DiTPipeline", "Heun"])
def test_importance_equals_a_recomputation(name):
    make, arguments = PIPELINES[name]
    pipe = make()
    call = caller(pipe, arguments)
    facts = calibrate(pipe, call, measure_importance=True, num_probes=100)
    rows = len(pipe.scheduler.timesteps)
    assert facts.delta.shape == facts.importance.shape == (rows,) and facts.delta[0] == 0
    numbers = [brute_force(pipe, call, row) for row in range(1, rows)]
    moved, spoiled = map(torch.tensor, zip(*numbers, strict=True))
    expected = moved / spoiled
    assert torch.allclose(facts.delta[1:], spoiled, rtol=1e-4)
    assert torch.allclose(facts.importance[1:], expected / expected.mean(), rtol=1e-3)


def test_rows_between_probes_are_interpolated_on_a_log_scale():
    pipe = ddim_pipeline()
    call = caller(pipe, {"batch_size": 2}, 7)
    some = calibrate(pipe, call, measure_importance=True, num_probes=3).importance.log()
    every = calibrate(pipe, call, measure_importance=True, num_probes=6).importance.log()
    probed = np.unique(np.rint(np.linspace(1, 6, 3)).astype(int)).tolist()
    offset = some[probed] - every[probed]
    assert torch.allclose(offset, offset[:1].expand(3), atol=1e-4), "the same but for the common scale"
    between = torch.from_numpy(np.interp(np.arange(1, 7), probed, some[probed].numpy())).float()
    assert torch.allclose(some[1:], between, atol=1e-4)


def test_uniform_importance_takes_one_run():
    pipe, calls = ddim_pipeline(), []
    call = caller(pipe, {"batch_size": 2})
    facts = calibrate(pipe, lambda: calls.append(1) or call(), measure_importance=False)
    assert len(calls) == 1 and (facts.importance == 1).all() and (facts.delta[1:] > 0).all()


@pytest.mark.parametrize("steps", [1, 2])
def test_very_short_runs(steps):
    pipe = ddim_pipeline()
    facts = calibrate(pipe, caller(pipe, {"batch_size": 2}, steps), measure_importance=True)
    assert facts.importance.tolist() == [1.0] * steps and len(facts.delta) == steps


def test_the_model_is_left_as_it_was():
    pipe = dit_pipeline()
    pipe.transformer.train()
    before = snapshot(pipe.transformer), snapshot(pipe.vae)
    calibrate(pipe, caller(pipe, LABELS), measure_importance=True, num_probes=2)
    assert_unchanged(pipe.transformer, before[0])
    assert_unchanged(pipe.vae, before[1])
