"""Calibration: recorded runs play back, and importance equals a recomputation by plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler

from fakes import TwoCalls, assert_unchanged, snapshot
from stepmask.inspection.describe import describe
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.learning.interception import riding
from stepmask.learning.paper.losses import relative_norm
from stepmask.learning.paper.output_change import _Prober, calibrate
from stepmask.runtime.sampling import sample
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
    call, prober, computed = caller(pipe, arguments), _Prober(denoiser_of(pipe)), []

    def policy(step, site, compute, cache):
        return prober.policy(step, site, lambda: computed.append(step) or compute(), cache)

    with riding(pipe, policy, prober):
        final = call()
        assert computed
        computed.clear()
        prober.held_row = 10**6
        assert torch.equal(call(), final) and not computed, "nothing is computed, everything is played back"


@torch.no_grad()
def brute_force(pipe, call, row: int) -> tuple[float, float, float]:
    """What it does to the final image, and to the output of one row, if every site holds its value there.

    Also the change of the output since the row before.
    """
    denoiser = denoiser_of(pipe)
    modules, sites = dict(denoiser.named_modules()), describe(denoiser).names
    outputs, values, position, recording = [], {}, 0, True

    def end_of_row(module, args, output):
        nonlocal position
        outputs.append(output[0][:, : denoiser.config.in_channels].clone())
        position += 1

    def swap_for(name):
        def swap(module, args, output):
            if recording:
                values[position, name] = output.clone()
            return values[row - 1, name] if position == row else None

        return swap

    hooks = [modules[name].register_forward_hook(swap_for(name)) for name in sites]
    hooks.append(denoiser.register_forward_hook(end_of_row))
    images = []
    if hasattr(pipe, "vae"):  # the picture would be clipped
        hooks.append(pipe.vae.decoder.register_forward_pre_hook(lambda module, args: images.append(args[0])))
    with without_decoder(pipe):
        row, wanted = -1, row
        images.insert(0, call())
        row, recording, position = wanted, False, 0
        images.insert(1, call())
    final, spoiled = images[-2:]
    for hook in hooks:
        hook.remove()
    true, held = outputs[row], outputs[len(outputs) // 2 + row]
    return tuple(
        relative_norm(value - base, base).mean().item()
        for value, base in ((spoiled, final), (held, true), (outputs[row - 1], true))
    )


@pytest.mark.parametrize("name", ["DDIMPipeline", "DDPMPipeline", "DiTPipeline", "Heun"])
def test_importance_equals_a_recomputation(name):
    make, arguments = PIPELINES[name]
    pipe = make()
    call = caller(pipe, arguments)
    facts = calibrate(pipe, call, kind="final", num_probes=100)
    rows = len(pipe.scheduler.timesteps)
    assert facts.delta.shape == facts.importance.shape == (rows,) and facts.delta[0] == 0
    numbers = [brute_force(pipe, call, row) for row in range(1, rows)]
    moved, error, change = map(torch.tensor, zip(*numbers, strict=True))
    expected = moved / error
    assert torch.allclose(facts.delta[1:], change, rtol=1e-4)
    assert torch.allclose(facts.importance[1:], expected / expected.mean(), rtol=1e-3)


def test_rows_between_probes_are_interpolated_on_a_log_scale():
    pipe = ddim_pipeline()
    call = caller(pipe, {"batch_size": 2}, 7)
    some = calibrate(pipe, call, kind="final", num_probes=3).importance.log()
    every = calibrate(pipe, call, kind="final", num_probes=6).importance.log()
    probed = np.unique(np.rint(np.linspace(1, 6, 3)).astype(int)).tolist()
    offset = some[probed] - every[probed]
    assert torch.allclose(offset, offset[:1].expand(3), atol=1e-4), "the same but for the common scale"
    between = torch.from_numpy(np.interp(np.arange(1, 7), probed, some[probed].numpy())).float()
    assert torch.allclose(some[1:], between, atol=1e-4)


def test_a_stream_that_begins_late_is_not_probed():
    make, arguments = PIPELINES["two calls, the second late"]
    pipe, calls = make(), []
    call = caller(pipe, arguments)
    facts = calibrate(pipe, lambda: calls.append(1) or call(), kind="final")
    assert len(calls) == 1 and (facts.importance == 1).all()


def test_uniform_importance_takes_one_run():
    pipe, calls = ddim_pipeline(), []
    call = caller(pipe, {"batch_size": 2})
    facts = calibrate(pipe, lambda: calls.append(1) or call(), kind="uniform")
    assert len(calls) == 1 and (facts.importance == 1).all() and (facts.delta[1:] > 0).all()


@pytest.mark.parametrize("steps", [1, 2])
def test_very_short_runs(steps):
    pipe = ddim_pipeline()
    facts = calibrate(pipe, caller(pipe, {"batch_size": 2}, steps), kind="final")
    assert facts.importance.tolist() == [1.0] * steps and len(facts.delta) == steps


def test_the_model_is_left_as_it_was():
    pipe = dit_pipeline()
    pipe.transformer.train()
    before = snapshot(pipe.transformer), snapshot(pipe.vae)
    calibrate(pipe, caller(pipe, LABELS), kind="final", num_probes=2)
    assert_unchanged(pipe.transformer, before[0])
    assert_unchanged(pipe.vae, before[1])
