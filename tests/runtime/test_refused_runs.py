"""What is refused while a mask is applied, and that a refusal changes nothing."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler
from loops import STEPS, Setup, bare_loop, condition_of, noise

import stepmask
from refusal import check_refused
from stepmask import MaskMismatchError, PositionError, StepMaskError, UnsupportedModelError
from stepmask.runtime.apply import is_applied
from tiny import ddim_pipeline, dit_pipeline, generator, random_mask, reference, tiny_model


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
        check_refused("remove the mask first", copied, pipe.unet)
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
    check_refused(r"needs a StepMask, a Plan, .* got int", stepmask.apply, pipe, 5)
    check_refused(r"cannot read mask mask\.json", stepmask.apply, pipe, "mask.json")
    check_refused(r"bare denoiser needs its scheduler.*scheduler=", stepmask.apply, pipe.unet, mask)
    check_refused(r"set pipe\.scheduler instead", stepmask.apply, pipe, mask, scheduler=DDIMScheduler())
    assert not is_applied(pipe.unet)
    with stepmask.apply(pipe, mask, scheduler=pipe.scheduler):
        assert is_applied(pipe.unet)
    assert not is_applied(pipe.unet)


def test_another_model_number_of_steps_or_scheduler():
    setup = Setup("DDPMPipeline")
    check_refused("belongs to another model", stepmask.apply, dit_pipeline(), setup.mask, error=MaskMismatchError)
    with stepmask.apply(setup.pipe, setup.mask):
        check_refused(
            r"6 rows.*has 9.*resample\(scheduler\)", setup.pipe, num_inference_steps=9, error=MaskMismatchError
        )
        assert torch.equal(setup.call(), setup.wanted())
        setup.pipe.scheduler = DDIMScheduler()
        check_refused("made for DDPMScheduler, the run uses DDIMScheduler", setup.call, error=MaskMismatchError)
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
