"""What a recording says is what a recomputation says, and the model is left as it was."""

import numpy as np
import pytest
import torch
from cases import BY_NAME, WAN_2_2
from diffusers import DDIMScheduler, FirstBlockCacheConfig, HeunDiscreteScheduler

from fakes import TwoCalls, assert_unchanged, snapshot
from stepmask import StepMaskError, UnsupportedModelError, apply, describe, schedules
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.runtime.noise import Noise
from stepmask_lab.rivals import record, smoothcache
from stepmask_lab.rivals.calibrated.recording import LOOKBACK
from tiny import ddim_pipeline, dit_pipeline, tiny_model

STEPS = 6
PIPELINES = {
    "DDIMPipeline": (ddim_pipeline, None),
    "DiTPipeline": (dit_pipeline, {"class_labels": [3, 7]}),
    "Heun": (lambda: SamplerLoop(tiny_model("UNet2DModel"), HeunDiscreteScheduler()), None),
    "two calls": (lambda: TwoCalls(tiny_model("DiTTransformer2DModel"), DDIMScheduler()), {"class_labels": [3, 7]}),
}


def brute_force(pipe, kwargs, streams: int) -> np.ndarray:
    """Changes by hooks that keep every value of the run."""
    denoiser, sites = denoiser_of(pipe), describe(pipe).innermost.names
    modules, values = dict(denoiser.named_modules()), {name: [] for name in sites}
    hooks = [modules[n].register_forward_hook(lambda m, a, v, n=n: values[n].append(v.double())) for n in sites]
    Noise(pipe, STEPS, 0, kwargs).images(0, 2)
    for hook in hooks:
        hook.remove()
    rows = len(pipe.scheduler.timesteps)
    result = np.full((rows, len(sites), LOOKBACK), np.inf)
    for site, name in enumerate(sites):
        for row in range(rows):
            for age in range(min(row, LOOKBACK)):
                pairs = [
                    (values[name][streams * row + s], values[name][streams * (row - 1 - age) + s])
                    for s in range(streams)
                ]
                result[row, site, age] = np.mean(
                    [((now - then).abs().sum() / now.abs().sum()).item() for now, then in pairs]
                )
    return result


@pytest.mark.parametrize("name", PIPELINES)
def test_changes_equal_a_recomputation(name):
    make, kwargs = PIPELINES[name]
    pipe = make()
    recording = record(pipe, STEPS, num_images=2, call_kwargs=kwargs)
    streams = 2 if name == "two calls" else 1
    wanted = brute_force(pipe, kwargs, streams)
    blocks = list(recording.graph.blocks)
    assert np.allclose(recording.changes[:, blocks], wanted[:, blocks], rtol=1e-3)
    assert recording.timesteps == tuple(pipe.scheduler.timesteps.tolist())
    facts = recording.facts
    assert facts["denoiser_calls"] == streams * len(recording.timesteps) and facts["seconds"] > 0
    assert facts["num_images"] == 2 and facts["noise_seeds"] == [2**31, 2**31 + 1]


def test_samplers_are_not_recorded():
    recording = record(ddim_pipeline(), 3, num_images=1)
    samplers = [i for i in range(len(recording.graph)) if i not in recording.graph.blocks]
    assert samplers and np.isinf(recording.changes[:, samplers]).all()


def test_seeds_and_conditions_make_other_recordings():
    pipe = dit_pipeline()
    one, again, other, given = (
        record(pipe, 3, num_images=1, **options).changes for options in ({}, {}, {"seed": 1}, {"conditions": [5]})
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other) and not np.array_equal(one, given)


def test_the_model_is_left_as_it_was():
    pipe = dit_pipeline()
    pipe.transformer.train()
    before = snapshot(pipe.transformer), snapshot(pipe.vae)
    record(pipe, 3, num_images=1)
    assert_unchanged(pipe.transformer, before[0])
    assert_unchanged(pipe.vae, before[1])


def test_values_that_are_no_numbers_count_as_changed():
    pipe = ddim_pipeline()
    with torch.no_grad():
        pipe.unet.mid_block.resnets[0].conv2.bias.fill_(torch.nan)
    recording = record(pipe, 3, num_images=1)
    assert np.isinf(recording.changes[:, recording.graph.names.index("mid_block.resnets.0")]).all()


@pytest.mark.parametrize("options", [{"num_images": 0}, {"num_images": True}, {"num_inference_steps": 0}])
def test_what_makes_no_sense(options):
    with pytest.raises(StepMaskError, match=f"{next(iter(options))} must be a whole number"):
        record(ddim_pipeline(), **options)


def test_a_mask_that_is_applied_has_to_go_first():
    pipe = ddim_pipeline()
    with apply(pipe, schedules.fora(pipe, 3, 2)), pytest.raises(StepMaskError, match="remove it before"):
        record(pipe, 3, num_images=1)


@pytest.mark.parametrize("rule", [record, smoothcache])
def test_pipelines_that_have_no_full_run_of_one_denoiser_are_refused(rule):
    options = {} if rule is record else {"target_macs": 0.5}
    two = BY_NAME[WAN_2_2].build()
    with pytest.raises(UnsupportedModelError, match=r"WanPipeline runs two denoisers.*schedules\.key_steps"):
        rule(two, 6, call_kwargs=BY_NAME[WAN_2_2].arguments(2), **options)
    cached = BY_NAME["Flux"].build()
    cached.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with pytest.raises(UnsupportedModelError, match=r"carry values of the denoiser from step to step.*disable_cache"):
        rule(cached, 4, call_kwargs=BY_NAME["Flux"].arguments(2), **options)
