"""Masks inside real pipelines on tiny random weights.

What comes out must equal, bit for bit, what a plain loop gives on a twin of the model whose sites are swapped by a
simple hook (`tiny.Reference`); the loops here are written out and share nothing with stepmask.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.utils.torch_utils import randn_tensor

import stepmask
from stepmask import (
    MaskMismatchError,
    PositionError,
    StepMask,
    StepMaskError,
    UnsupportedModelError,
    describe,
    make_plan,
    measure_cost,
)
from stepmask.liveness import State
from stepmask.runtime.apply import is_applied
from tiny import (
    count_computes,
    ddim_pipeline,
    ddpm_pipeline,
    dit_pipeline,
    generator,
    random_mask,
    reference,
    suffix,
    tiny_model,
)

STEPS = 6
LABELS = [3, 7]


# --- plain loops


def noise(model, batch: int, seed: int) -> tuple[torch.Tensor, torch.Generator]:
    source = generator(seed)
    size = model.config.sample_size
    return randn_tensor((batch, model.config.in_channels, size, size), generator=source, dtype=model.dtype), source


@torch.no_grad()
def unconditional_loop(pipe, mask, batch=2, seed=0, steps=STEPS, **step_kwargs) -> torch.Tensor:
    """What DDIMPipeline and DDPMPipeline do."""
    image, source = noise(pipe.unet, batch, seed)
    pipe.scheduler.set_timesteps(steps)
    with reference(pipe.unet, mask) as running:
        for running.row, t in enumerate(pipe.scheduler.timesteps):
            output = pipe.unet(image, t).sample
            image = pipe.scheduler.step(output, t, image, generator=source, **step_kwargs).prev_sample
    return (image / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def dit_loop(pipe, mask, labels=LABELS, seed=0, steps=STEPS, scale=4.0) -> torch.Tensor:
    """What DiTPipeline does: guidance as one call, condition first."""
    model, channels = pipe.transformer, pipe.transformer.config.in_channels
    latents, _ = noise(model, len(labels), seed)
    classes = torch.tensor(labels)
    if scale > 1:
        latents, classes = torch.cat([latents] * 2), torch.cat([classes, torch.full_like(classes, 1000)])
    pipe.scheduler.set_timesteps(steps)
    with reference(model, mask) as running:
        for running.row, t in enumerate(pipe.scheduler.timesteps):
            if scale > 1:
                latents = torch.cat([latents[: len(labels)]] * 2)
            output = model(latents, timestep=t[None].expand(len(latents)), class_labels=classes).sample[:, :channels]
            if scale > 1:
                condition, null = output.chunk(2)
                output = torch.cat([null + scale * (condition - null)] * 2)
            latents = pipe.scheduler.step(output, t, latents).prev_sample
    return (pipe.vae.decode(1 / pipe.vae.config.scaling_factor * latents[: len(labels)]).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def bare_loop(model, scheduler, running=None, *, batch=2, seed=0, start=0, stop=None, guidance=None, **condition):
    """A user's own loop; `guidance` runs the denoiser twice per step, as two calls."""
    sample, _ = noise(model, batch, seed)
    if start and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    channels = model.config.in_channels
    for row, t in enumerate(scheduler.timesteps[start:], start):
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        if running is not None:
            running.row, running.stream = row, 0
        output = model(scaled, timestep=t.expand(batch), **condition).sample[:, :channels]
        if guidance is not None:
            if running is not None:
                running.stream = 1
            null = model(scaled, timestep=t.expand(batch), class_labels=torch.full((batch,), 1000)).sample[:, :channels]
            output = null + guidance * (output - null)
        if row == stop:
            return None
        sample = scheduler.step(output, t, sample, return_dict=False)[0]
    return sample


def full(mask: StepMask) -> StepMask:
    return mask.with_actions(np.ones_like(mask.actions), scheduler=None)


# --- pipelines: (make, call, reference loop, denoiser's name)

PIPELINES = {
    "DDIMPipeline": (
        ddim_pipeline,
        lambda pipe, batch, seed: pipe(batch, generator(seed), num_inference_steps=STEPS, output_type="pt").images,
        lambda pipe, mask, batch, seed: unconditional_loop(pipe, mask, batch, seed, eta=0.0),
    ),
    "DDIMPipeline with noise": (
        ddim_pipeline,
        lambda pipe, batch, seed: (
            pipe(batch, generator(seed), eta=0.7, num_inference_steps=STEPS, output_type="pt").images
        ),
        lambda pipe, mask, batch, seed: unconditional_loop(pipe, mask, batch, seed, eta=0.7),
    ),
    "DDPMPipeline": (
        ddpm_pipeline,
        lambda pipe, batch, seed: pipe(batch, generator(seed), num_inference_steps=STEPS, output_type="pt").images,
        unconditional_loop,
    ),
    "DDPMPipeline, DPM-Solver++": (
        lambda: ddpm_pipeline(DPMSolverMultistepScheduler(algorithm_type="dpmsolver++")),
        lambda pipe, batch, seed: pipe(batch, generator(seed), num_inference_steps=STEPS, output_type="pt").images,
        unconditional_loop,
    ),
    "DiTPipeline": (
        dit_pipeline,
        lambda pipe, batch, seed: (
            pipe(LABELS[:batch], generator=generator(seed), num_inference_steps=STEPS, output_type="pt").images
        ),
        lambda pipe, mask, batch, seed: dit_loop(pipe, mask, LABELS[:batch], seed),
    ),
    "DiTPipeline without guidance": (
        dit_pipeline,
        lambda pipe, batch, seed: (
            pipe(LABELS[:batch], 1.0, generator(seed), num_inference_steps=STEPS, output_type="pt").images
        ),
        lambda pipe, mask, batch, seed: dit_loop(pipe, mask, LABELS[:batch], seed, scale=1.0),
    ),
}


class Setup:
    """A pipeline to apply masks to, and a twin for the reference."""

    def __init__(self, name: str, forecasts: float = 0.0) -> None:
        make, self._call, self._loop = PIPELINES[name]
        self.pipe, self.twin = make(), make()
        self.mask = random_mask(self.pipe, copy.deepcopy(self.pipe.scheduler), STEPS, forecasts=forecasts)

    def call(self, batch=2, seed=0) -> torch.Tensor:
        return self._call(self.pipe, batch, seed)

    def wanted(self, mask=None, batch=2, seed=0) -> torch.Tensor:
        return self._loop(self.twin, mask or self.mask, batch, seed)


FORECASTS = pytest.mark.parametrize("forecasts", [0.0, 0.6], ids=["binary", "forecasts"])
"""Share of the cells that extrapolate, among those that do not compute."""


@pytest.fixture(
    params=[*((name, 0.0) for name in PIPELINES), ("DDIMPipeline", 0.6), ("DiTPipeline", 0.6)],
    ids=lambda param: param[0] + (", forecasts" if param[1] else ""),
)
def setup(request) -> Setup:
    return Setup(*request.param)


def test_the_reference_loop_is_the_plain_pipeline(setup):
    """Else every other comparison here would say nothing."""
    assert torch.equal(setup.wanted(full(setup.mask)), setup.call())
    assert not torch.equal(setup.wanted(), setup.call())


def test_masked_pipelines(setup):
    with stepmask.apply(setup.pipe, setup.mask):
        assert torch.equal(setup.call(), setup.wanted())
    with stepmask.apply(setup.pipe, setup.mask, eliminate_dead=False):
        assert torch.equal(setup.call(), setup.wanted())
    assert torch.equal(setup.call(), setup.wanted(full(setup.mask)))


def test_all_ones_is_the_plain_pipeline(setup):
    plain = setup.call()
    with stepmask.apply(setup.pipe, full(setup.mask)):
        assert torch.equal(setup.call(), plain)


def test_further_calls_with_other_batch_sizes_and_seeds(setup):
    with stepmask.apply(setup.pipe, setup.mask):
        for batch, seed in ((2, 0), (2, 1), (1, 0), (2, 0)):
            assert torch.equal(setup.call(batch, seed), setup.wanted(batch=batch, seed=seed))


def test_bfloat16(setup):
    with stepmask.apply(setup.pipe, setup.mask):
        setup.call()
        setup.pipe.to(torch.bfloat16)
        setup.twin.to(torch.bfloat16)
        found = setup.call()
        assert found.dtype == torch.bfloat16 and torch.equal(found, setup.wanted())


def test_under_inference_mode(setup):
    with torch.inference_mode(), stepmask.apply(setup.pipe, setup.mask):
        assert torch.equal(setup.call(), setup.wanted())


@pytest.mark.parametrize("row", [0, 3, STEPS - 1])
def test_a_call_that_dies_between_two_steps_leaves_nothing_behind(setup, row, monkeypatch):
    with stepmask.apply(setup.pipe, setup.mask):
        rows = iter(range(STEPS))
        step = setup.pipe.scheduler.step

        def die(*args, **kwargs):
            result = step(*args, **kwargs)
            if next(rows) == row:
                raise KeyboardInterrupt
            return result

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(setup.pipe.scheduler, "step", die)
            setup.call(seed=5)
        assert torch.equal(setup.call(), setup.wanted())


def test_offload_before_apply(setup):
    setup.pipe.enable_model_cpu_offload(device="cpu")
    denoiser = getattr(setup.pipe, "unet", None) or setup.pipe.transformer
    with stepmask.apply(setup.pipe, setup.mask):
        for _ in range(3):
            assert torch.equal(setup.call(), setup.wanted())
    assert not any("forward" in vars(module) for name, module in denoiser.named_modules() if name)
    assert torch.equal(setup.call(), setup.wanted(full(setup.mask)))


def test_offload_after_apply_of_the_denoiser_alone_is_survived():
    """Model offload wraps the denoiser, not its sites, so even the wrong order works."""
    setup = Setup("DDIMPipeline")
    with stepmask.apply(setup.pipe, setup.mask):
        setup.pipe.enable_model_cpu_offload(device="cpu")
        for _ in range(2):
            assert torch.equal(setup.call(), setup.wanted())
    assert torch.equal(setup.call(), setup.wanted(full(setup.mask)))


def test_a_mask_from_a_file(setup, tmp_path):
    setup.mask.save(tmp_path / "mask.json")
    with stepmask.apply(setup.pipe, StepMask.load(tmp_path / "mask.json")):
        assert torch.equal(setup.call(), setup.wanted())


# --- bare denoisers

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "heun": HeunDiscreteScheduler,
    "pndm": lambda: PNDMScheduler(skip_prk_steps=True),
    "euler": EulerDiscreteScheduler,
    "flow-match": FlowMatchEulerDiscreteScheduler,
}
MODELS = ["UNet2DModel", "DiTTransformer2DModel"]


def condition_of(family: str, batch: int = 2) -> dict:
    return {"class_labels": torch.tensor([1, 2, 3][:batch])} if family.startswith("DiT") else {}


def seeded_step(scheduler):
    """Ancestral noise comes from torch's global generator in a bare loop."""
    torch.manual_seed(0)
    scheduler.set_timesteps(STEPS)


@FORECASTS
@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_bare_denoiser_and_late_start(name, family, start, forecasts):
    model, twin, scheduler = tiny_model(family), tiny_model(family), SCHEDULERS[name]()
    mask = random_mask(model, scheduler, STEPS, share=0.4, forecasts=forecasts)
    with stepmask.apply(model, mask, scheduler=scheduler) as run:
        for first in (0, start):  # a late run after a whole one
            seeded_step(scheduler)
            found = bare_loop(model, scheduler, start=first, **condition_of(family))
            seeded_step(scheduler)
            with reference(twin, suffix(mask, first)) as running:
                wanted = bare_loop(twin, scheduler, running, start=first, **condition_of(family))
            assert torch.equal(found, wanted)
            assert run.summary().rows == len(mask.timesteps) - first


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
    from stepmask.inspection.sampler_loop import SamplerLoop

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


def test_a_mask_whose_handle_is_lost_can_be_removed():
    pipe = ddim_pipeline()
    stepmask.apply(pipe, random_mask(pipe, DDIMScheduler(), STEPS))
    assert is_applied(pipe.unet)
    stepmask.remove(pipe)
    assert not is_applied(pipe.unet) and not pipe.unet._forward_pre_hooks
    stepmask.remove(pipe)


# --- what is kept


def test_a_call_that_fails_lets_the_caches_go():
    """It may have failed for want of memory."""
    pipe = ddim_pipeline()
    mask = random_mask(pipe, DDIMScheduler(), STEPS)
    calls = []

    def fail(*args):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError

    def run():
        return pipe(2, generator(), num_inference_steps=STEPS, output_type="pt").images

    with stepmask.apply(pipe, mask) as handle:
        wanted = run()
        hook = pipe.unet.conv_out.register_forward_pre_hook(fail)
        with pytest.raises(torch.OutOfMemoryError):
            run()
        (executor,) = handle._executors.values()
        assert executor.meter.held == 0 < executor.meter.peak
        hook.remove()
        assert torch.equal(run(), wanted)


def test_a_pipeline_is_freed_with_its_last_name():
    """No circle of references is left that only the garbage collector finds."""
    gc.collect()
    gc.disable()
    try:
        pipe = ddim_pipeline()
        with stepmask.apply(pipe, random_mask(pipe, DDIMScheduler(), STEPS)) as handle:
            pipe(2, generator(), num_inference_steps=STEPS, output_type="np")
            assert handle.summary().computes
        model = weakref.ref(pipe.unet)
        del pipe, handle
        assert model() is None
    finally:
        gc.enable()


# --- what is refused


def test_a_handle_is_for_one_time():
    pipe = ddim_pipeline()
    handle = stepmask.apply(pipe, random_mask(pipe, DDIMScheduler(), STEPS))
    with handle:
        pass
    with pytest.raises(StepMaskError, match="was removed from the pipeline: apply it again"), handle:
        pass


def test_a_mask_within_the_block_of_another_warns():
    pipe = ddim_pipeline()
    mask = random_mask(pipe, DDIMScheduler(), STEPS)
    with stepmask.apply(pipe, mask):
        with pytest.warns(UserWarning, match="within the block of another"), stepmask.apply(pipe, mask):
            pass
        assert not is_applied(pipe.unet)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_copies_of_a_masked_denoiser(copied):
    """Their gates would run the original's blocks."""
    pipe = ddim_pipeline()
    with stepmask.apply(pipe, random_mask(pipe, DDIMScheduler(), STEPS)):
        with pytest.raises(StepMaskError, match="remove the mask first"):
            copied(pipe.unet)
        assert pipe.unet.state_dict()
    copied(pipe.unet)


def test_another_thread_in_the_middle_of_a_run():
    """Which of the two is meant cannot be told, and neither gets the other's values."""
    model, scheduler = tiny_model("UNet2DModel"), DDIMScheduler()
    with stepmask.apply(model, random_mask(model, scheduler, STEPS), scheduler=scheduler):
        scheduler.set_timesteps(STEPS)
        sample, _ = noise(model, 1, 0)
        with ThreadPoolExecutor(1) as other, torch.no_grad():
            model(sample, scheduler.timesteps[0])
            with pytest.raises(PositionError, match="another thread called the UNet2DModel in the middle of a run"):
                other.submit(model, sample, scheduler.timesteps[1]).result()
            scheduler.set_timesteps(STEPS)
            other.submit(bare_loop, model, scheduler).result()


@pytest.mark.parametrize("new_run", [False, True])
def test_another_thread_in_the_middle_of_a_call(new_run):
    """It is refused before it changes anything: the call that is under way ends as it would have alone."""
    model, twin, scheduler = tiny_model("UNet2DModel"), tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS, share=0.3)
    sample, _ = noise(model, 1, 0)
    outputs, caller = [], threading.current_thread()

    def call_too(module, args):
        if threading.current_thread() is not caller:  # it was not refused: do not wait for it forever
            return
        timesteps, row = scheduler.timesteps, len(outputs)
        if new_run:
            scheduler.set_timesteps(STEPS)
        with pytest.raises(PositionError, match="another thread called the UNet2DModel in the middle of a call"):
            other.submit(model, sample, scheduler.timesteps[0 if new_run else row]).result()
        scheduler.timesteps = timesteps

    with ThreadPoolExecutor(1) as other, torch.no_grad(), stepmask.apply(model, mask, scheduler=scheduler):
        scheduler.set_timesteps(STEPS)
        hook = model.mid_block.register_forward_pre_hook(call_too)
        for t in scheduler.timesteps:
            outputs.append(model(sample, t).sample)
        hook.remove()
        other.submit(scheduler.set_timesteps, STEPS).result()
        other.submit(bare_loop, model, scheduler).result()
    with torch.no_grad(), reference(twin, mask) as running:
        for running.row, t in enumerate(scheduler.timesteps):
            assert torch.equal(outputs[running.row], twin(sample, t).sample)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_that_a_thread_did_not_live_to_end():
    """Nothing is told of what is no ordinary exception; the next run goes on as if that call had never been."""
    model, twin, scheduler = tiny_model("UNet2DModel"), tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS)

    def stop(*args):
        raise SystemExit

    with stepmask.apply(model, mask, scheduler=scheduler), torch.no_grad():
        scheduler.set_timesteps(STEPS)
        hook = model.mid_block.register_forward_pre_hook(stop)
        thread = threading.Thread(target=bare_loop, args=(model, scheduler))
        thread.start()
        thread.join()
        hook.remove()
        scheduler.set_timesteps(STEPS)
        found = bare_loop(model, scheduler)
    with torch.no_grad(), reference(twin, mask) as running:
        assert torch.equal(found, bare_loop(twin, scheduler, running))


def test_a_site_that_runs_twice_in_one_call():
    """As forward chunking lets it."""
    model, scheduler = tiny_model("DiTTransformer2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS)
    width = model.inner_dim
    with stepmask.apply(model, mask, scheduler=scheduler):
        block = model.transformer_blocks[0]
        block.register_forward_pre_hook(lambda *_: [block.ff(torch.ones(1, 1, width))] and None)
        scheduler.set_timesteps(STEPS)
        with pytest.raises(UnsupportedModelError, match=r"transformer_blocks.0.ff runs several times in one call"):
            bare_loop(model, scheduler, **condition_of("DiT"))


def test_wrong_inputs_to_apply():
    pipe = ddim_pipeline()
    mask = random_mask(pipe, DDIMScheduler(), STEPS)
    with pytest.raises(StepMaskError, match=r"needs a StepMask or a Plan, got str: StepMask\.load"):
        stepmask.apply(pipe, "mask.json")
    with pytest.raises(StepMaskError, match=r"bare denoiser needs its scheduler.*scheduler="):
        stepmask.apply(pipe.unet, mask)
    with pytest.raises(StepMaskError, match=r"set pipe\.scheduler instead"):
        stepmask.apply(pipe, mask, scheduler=DDIMScheduler())
    assert not is_applied(pipe.unet)
    with stepmask.apply(pipe, mask, scheduler=pipe.scheduler):
        assert is_applied(pipe.unet)
    assert not is_applied(pipe.unet)


def test_another_model_number_of_steps_or_scheduler():
    setup = Setup("DDPMPipeline")
    with pytest.raises(MaskMismatchError, match="belongs to another model"):
        stepmask.apply(dit_pipeline(), setup.mask)
    with stepmask.apply(setup.pipe, setup.mask):
        with pytest.raises(MaskMismatchError, match=r"6 rows.*has 9.*resample\(scheduler\)"):
            setup.pipe(num_inference_steps=9)
        assert torch.equal(setup.call(), setup.wanted())
        setup.pipe.scheduler = DDIMScheduler()
        with pytest.raises(MaskMismatchError, match="made for DDPMScheduler, the run uses DDIMScheduler"):
            setup.call()
        setup.pipe.scheduler = DDPMScheduler()
        assert torch.equal(setup.call(), setup.wanted())


def test_a_refused_run_stays_refused():
    """A loop that goes on after the error must not slip into the mask."""
    model, scheduler = tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS)
    sample, _ = noise(model, 1, 0)
    with stepmask.apply(model, mask, scheduler=scheduler):
        scheduler.set_timesteps(STEPS - 2)
        for t in [*scheduler.timesteps, scheduler.timesteps[0]]:
            with pytest.raises(MaskMismatchError):
                model(sample, t)


def test_a_warning_where_timesteps_shift():
    model, scheduler = tiny_model("DiTTransformer2DModel"), FlowMatchEulerDiscreteScheduler()
    mask = random_mask(model, scheduler, STEPS)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.3, STEPS).tolist())
    with stepmask.apply(model, mask, scheduler=scheduler), pytest.warns(UserWarning, match="timesteps differ"):
        bare_loop(model, scheduler, **condition_of("DiT"))


@pytest.mark.parametrize("before", ["nothing", "a run", "an aborted run"])
def test_a_second_pipeline_on_the_same_denoiser_is_refused(before):
    setup = Setup("DDIMPipeline")
    other = DDIMPipeline(unet=setup.pipe.unet, scheduler=DDIMScheduler())
    other.set_progress_bar_config(disable=True)
    with stepmask.apply(setup.pipe, setup.mask):
        if before == "a run":
            setup.call()
        if before == "an aborted run":
            with contextlib.suppress(ZeroDivisionError):
                hook = setup.pipe.unet.conv_out.register_forward_hook(lambda *_: 1 / 0)
                setup.call()
            hook.remove()
        with pytest.raises(PositionError, match="another pipeline"):
            other(num_inference_steps=STEPS)
        assert torch.equal(setup.call(), setup.wanted())
    plain = other(2, generator(), num_inference_steps=STEPS, output_type="pt").images
    assert torch.equal(plain, setup.wanted(full(setup.mask)))


def test_a_second_pipeline_may_take_the_mask_over():
    setup = Setup("DDIMPipeline")
    other = DDIMPipeline(unet=setup.pipe.unet, scheduler=DDIMScheduler())
    other.set_progress_bar_config(disable=True)
    old = stepmask.apply(setup.pipe, setup.mask)
    with stepmask.apply(other, setup.mask):
        found = other(2, generator(), num_inference_steps=STEPS, output_type="pt").images
        assert torch.equal(found, setup.wanted())
    old.remove()
    assert not is_applied(setup.pipe.unet)


def test_ancestral_euler_in_a_bare_loop_draws_the_same_noise():
    """Skipped sites must not touch the random state that a sampler uses."""
    model, twin, scheduler = tiny_model("UNet2DModel"), tiny_model("UNet2DModel"), EulerAncestralDiscreteScheduler()
    mask = random_mask(model, scheduler, STEPS)
    with stepmask.apply(model, mask, scheduler=scheduler):
        seeded_step(scheduler)
        found = bare_loop(model, scheduler)
    seeded_step(scheduler)
    with reference(twin, mask) as running:
        assert torch.equal(found, bare_loop(twin, scheduler, running))


# --- summary


def peak_bytes(pipe, plan, batch: int) -> int:
    """Simulate the cache of one run with the real sizes of the sites' values."""
    sizes: dict[str, int] = {}
    modules = dict(pipe.unet.named_modules())

    def hook(name):
        return lambda module, args, output: sizes.update({name: output.numel() * output.element_size()})

    hooks = [modules[name].register_forward_hook(hook(name)) for name in plan.sites]
    pipe(batch, num_inference_steps=1)
    for handle in hooks:
        handle.remove()
    held, peak, count = 0, 0, dict.fromkeys(plan.sites, 0)
    for keep in plan.keep.tolist():
        for name, values in zip(plan.sites, keep, strict=True):
            held += (values - count[name]) * sizes[name]
            peak = max(peak, held)
            count[name] = values
    assert held == 0
    return peak


@FORECASTS
@pytest.mark.parametrize("batch", [1, 3])
def test_summary_of_a_run(batch, forecasts):
    setup = Setup("DDIMPipeline", forecasts)
    graph, cost = describe(setup.pipe), measure_cost(setup.pipe)
    plan = make_plan(setup.mask, graph)
    with stepmask.apply(setup.pipe, setup.mask) as run:
        assert run.summary().peak_cache_bytes == 0, "before the first run"
        setup.call(batch)
        summary = run.summary()
        assert run._executors[setup.pipe.unet].meter.held == 0, "everything is freed after its last read"
    assert (summary.rows, summary.computes, summary.forecasts, summary.reuses, summary.dead) == (
        STEPS,
        int((plan.states == State.compute).sum()),
        int((plan.states == State.forecast).sum()),
        int((plan.states == State.reuse).sum()),
        int((plan.states == State.dead).sum()),
    )
    cells = summary.computes + summary.forecasts + summary.reuses + summary.dead
    assert cells == STEPS * len(graph) and summary.dead > 0 and (summary.forecasts > 0) == (forecasts > 0)
    assert summary.macs_fraction == cost.fraction(plan) < cost.fraction(setup.mask) < 1
    assert summary.macs_per_image == pytest.approx(cost.fraction(plan) * cost.step_macs * STEPS)
    assert summary.peak_cache_bytes == peak_bytes(setup.twin, plan, batch) > 0
    assert run.summary() == summary, "after removal it still tells of the last run"
    assert summary.to_dict()["rows"] == STEPS and summary.to_dict()["forecasts"] == summary.forecasts
    assert f"{STEPS} rows" in str(summary) and "dead" in str(summary) and "MiB" in str(summary)
    assert f" {summary.forecasts} forecasts," in str(summary)


def test_summary_of_a_run_that_ended_early_or_began_anew():
    """It tells what ran: the rows that were reached, and all cells of a row at which values no longer fitted."""
    model, scheduler = tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS, only_blocks=True)
    with count_computes(model, mask.sites) as log, stepmask.apply(model, mask, scheduler=scheduler) as run:
        scheduler.set_timesteps(STEPS)
        for batch, rows in ((2, scheduler.timesteps[:2]), (1, scheduler.timesteps[2:4])):
            for t in rows:
                with torch.no_grad():
                    model(noise(model, batch, 0)[0], t)
        summary, cost = run.summary(), measure_cost(model)
    shapes_alone = (run.ran.states[[0, 2]] == State.dead).sum()  # never read: they run once, to learn their shape
    assert summary.rows == 4 and len(log) - shapes_alone <= summary.computes <= len(log)
    assert summary.macs_fraction == pytest.approx(cost.fraction(run.ran)) and run.ran.num_rows == 4
    first = make_plan(mask, describe(model)).states[:2]
    assert np.array_equal(run.ran.states[:2], first)


def test_summary_of_all_ones():
    setup = Setup("DDIMPipeline")
    with stepmask.apply(setup.pipe, full(setup.mask)) as run:
        setup.call()
        summary = run.summary()
    assert (summary.reuses, summary.dead, summary.peak_cache_bytes) == (0, 0, 0)
    assert summary.macs_fraction == pytest.approx(1)


def test_caches_of_two_streams_add_up():
    model, scheduler = tiny_model("DiTTransformer2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS)
    peaks = []
    for guidance in (None, 2.0):
        with stepmask.apply(model, mask, scheduler=scheduler) as run:
            scheduler.set_timesteps(STEPS)
            bare_loop(model, scheduler, guidance=guidance, **condition_of("DiT"))
            peaks.append(run.summary().peak_cache_bytes)
    assert peaks[0] < peaks[1] <= 2 * peaks[0]


def test_elimination_saves_cache_and_computes():
    setup = Setup("DDIMPipeline")
    summaries = []
    for eliminate_dead in (True, False):
        with stepmask.apply(setup.pipe, setup.mask, eliminate_dead=eliminate_dead) as run:
            setup.call()
            summaries.append(run.summary())
    lean, plain = summaries
    assert lean.computes < plain.computes and lean.peak_cache_bytes <= plain.peak_cache_bytes
    assert plain.dead == 0 and plain.computes == setup.mask.compute.sum()
