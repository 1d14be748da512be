"""Bare denoisers in loops of the user's own: late starts, guidance as two calls, aborted runs, changing batches."""

import pytest
import torch
from diffusers import DDIMScheduler
from loops import FORECASTS, MODELS, SCHEDULERS, STEPS, bare_loop, condition_of, noise, seeded_step

import stepmask
from gate import in_gate
from stepmask.inspection.sampler_loop import SamplerLoop
from tiny import generator, random_mask, reference, suffix, tiny_model


@pytest.mark.parametrize(
    ("name", "forecasts"), [*((name, 0.6) for name in SCHEDULERS), ("ddim", 0.0), ("heun", 0.0)], ids=str
)
@pytest.mark.parametrize("family", in_gate(MODELS, "DiTTransformer2DModel"))
def test_bare_denoiser_and_late_start(name, family, forecasts):
    model, twin, scheduler = tiny_model(family), tiny_model(family), SCHEDULERS[name]()
    mask = random_mask(model, scheduler, STEPS, share=0.4, forecasts=forecasts)
    with stepmask.apply(model, mask, scheduler=scheduler) as run:
        for start in (0, 2):  # a late run after a whole one
            seeded_step(scheduler)
            found = bare_loop(model, scheduler, start=start, **condition_of(family))
            seeded_step(scheduler)
            with reference(twin, suffix(mask, start)) as running:
                wanted = bare_loop(twin, scheduler, running, start=start, **condition_of(family))
            assert torch.equal(found, wanted)
            assert run.ran.num_rows == len(mask.timesteps) - start


@FORECASTS
@pytest.mark.parametrize("name", ["ddim", "dpm++", "heun", "flow-match"])
def test_guidance_as_two_calls(name, forecasts):
    family = "DiTTransformer2DModel"
    model, twin, scheduler = tiny_model(family), tiny_model(family), SCHEDULERS[name]()
    mask = random_mask(model, scheduler, STEPS, share=0.4, forecasts=forecasts)
    with stepmask.apply(model, mask, scheduler=scheduler):
        for start in (0, 0, 2):
            scheduler.set_timesteps(STEPS)
            found = bare_loop(model, scheduler, start=start, guidance=4.0, **condition_of(family))
            scheduler.set_timesteps(STEPS)
            with reference(twin, suffix(mask, start)) as running:
                wanted = bare_loop(twin, scheduler, running, start=start, guidance=4.0, **condition_of(family))
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_aborted_bare_loop(name):
    model, twin, scheduler = tiny_model("UNet2DModel"), tiny_model("UNet2DModel"), SCHEDULERS[name]()
    mask = random_mask(model, scheduler, STEPS, share=0.4)
    with stepmask.apply(model, mask, scheduler=scheduler):
        for stop in (0, 3):
            scheduler.set_timesteps(STEPS)
            bare_loop(model, scheduler, seed=4, stop=stop)
            seeded_step(scheduler)
            found = bare_loop(model, scheduler)
            seeded_step(scheduler)
            with reference(twin, mask) as running:
                assert torch.equal(found, bare_loop(twin, scheduler, running))


@pytest.mark.parametrize("name", ["heun", "flow-match", "ddim"])
@pytest.mark.parametrize("family", MODELS)
def test_sampler_loop(family, name):
    """The package's own loop over a bare denoiser is the plain loop."""
    model, twin, scheduler = tiny_model(family), tiny_model(family), SCHEDULERS[name]()
    mask = random_mask(model, scheduler, STEPS, share=0.4)
    loop = SamplerLoop(model, scheduler)
    with stepmask.apply(loop, mask):
        found = loop(2, STEPS, generator(), **condition_of(family)).images
    scheduler.set_timesteps(STEPS)
    sample, _ = noise(twin, 2, 0)
    sample = sample * getattr(scheduler, "init_noise_sigma", 1.0)
    with torch.no_grad(), reference(twin, mask) as running:
        for running.row, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
            output = twin(scaled, t.expand(2), **condition_of(family)).sample[:, : sample.shape[1]]
            sample = scheduler.step(output, t, sample, return_dict=False)[0]
    assert torch.equal(found, sample)


@FORECASTS
def test_the_batch_may_change_in_mid_run(forecasts):
    """Dynamic guidance halves the batch; what was cached no longer fits, so the stream begins anew."""
    model, scheduler = tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS, share=0.4, forecasts=forecasts)
    sample, _ = noise(model, 4, 0)
    with torch.no_grad(), stepmask.apply(model, mask, scheduler=scheduler):
        scheduler.set_timesteps(STEPS)
        outputs = [model(sample[: 4 if row < 3 else 2], t).sample for row, t in enumerate(scheduler.timesteps)]
    twin = tiny_model("UNet2DModel")
    with torch.no_grad(), reference(twin, suffix(mask, 3)) as running:
        for running.row, t in list(enumerate(scheduler.timesteps))[3:]:
            assert torch.equal(outputs[running.row], twin(sample[:2], t).sample)


@FORECASTS
def test_a_late_run_after_one_that_was_aborted_just_before(forecasts):
    """Rows 0 to 2 of one run, then rows from 3 of the next: what the first cached must not serve the second."""
    model, twin, scheduler = tiny_model("UNet2DModel"), tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS, share=0.3, forecasts=forecasts)
    with stepmask.apply(model, mask, scheduler=scheduler):
        scheduler.set_timesteps(STEPS)
        bare_loop(model, scheduler, seed=4, stop=2)
        scheduler.set_timesteps(STEPS)
        found = bare_loop(model, scheduler, start=3)
    with reference(twin, suffix(mask, 3)) as running:
        assert torch.equal(found, bare_loop(twin, scheduler, running, start=3))


def test_a_skipped_row_begins_anew():
    model, twin, scheduler = tiny_model("UNet2DModel"), tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS, share=0.3)
    sample, _ = noise(model, 2, 0)
    with torch.no_grad(), stepmask.apply(model, mask, scheduler=scheduler):
        scheduler.set_timesteps(STEPS)
        outputs = [model(sample, scheduler.timesteps[row]).sample for row in (0, 1, 3, 4)]
    with torch.no_grad(), reference(twin, suffix(mask, 3)) as running:
        for running.row in (3, 4):
            assert torch.equal(outputs[running.row - 1], twin(sample, scheduler.timesteps[running.row]).sample)


@torch.no_grad()
def test_a_submodule_called_on_its_own_after_an_exception_just_runs():
    model, scheduler = tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS, share=0.0)
    sample, _ = noise(model, 2, 0)
    sampler = model.down_blocks[0].downsamplers[0]
    value = torch.randn(2, 8, 16, 16)
    wanted = sampler(value)
    with stepmask.apply(model, mask, scheduler=scheduler, eliminate_dead=False):
        scheduler.set_timesteps(STEPS)
        model(sample, scheduler.timesteps[0])
        hook = model.conv_out.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(sample, scheduler.timesteps[1])
        hook.remove()
        assert torch.equal(sampler(value), wanted)
