"""What else acts on a masked denoiser: other caches, forward hooks, gradients, interrupts, other threads."""

import copy
import threading
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from cases import BY_NAME, SAFE, ddim, random, sd_texts, tiny_unet, vae
from runs import by_reference, calls_of, interrupted, random_actions

import stepmask
from refusal import check_refused
from stepmask import PositionError, StepMaskError, UnsupportedModelError, describe, make_plan, schedules
from stepmask.mask import Action
from tiny import ddim_pipeline, generator, mask_of, quiet, random_mask, reference, tiny_model

SD = BY_NAME["Stable Diffusion"]


def fora(pipe) -> stepmask.StepMask:
    """Every second row of the latest run computes."""
    graph, rows = describe(pipe), len(pipe.scheduler.timesteps)
    compute = np.zeros((rows, len(graph)), bool)
    compute[::2] = True
    return mask_of(compute, graph, pipe.scheduler)


# --- other caches


def first_block_cache():
    return diffusers.FirstBlockCacheConfig(threshold=5.0)


def mag_cache():
    return diffusers.MagCacheConfig(mag_ratios=torch.ones(6), num_inference_steps=6, threshold=10.0)


@pytest.mark.parametrize("config", [first_block_cache, mag_cache])
def test_a_cache_under_a_mask(config):
    """Blocks that it skips are missed where the mask computes them, also where nobody asks for their values later."""
    case = replace(BY_NAME["Flux"], steps=6)
    pipe = case.build()
    plain = case.run(pipe)
    pipe.transformer.enable_cache(config())
    with stepmask.apply(pipe, fora(pipe)):
        check_refused(r"did not run at a step at which .*DeepCache", case.run, pipe, error=UnsupportedModelError)
    pipe.transformer.disable_cache()
    assert torch.equal(case.run(pipe), plain)


@pytest.mark.shows("DeepCache (its package) over a mask", apply="refused")
def test_deep_cache_over_a_mask():
    deepcache = pytest.importorskip("DeepCache")
    case = replace(SD, steps=8)
    pipe = case.build()
    plain = case.run(pipe)
    helper = deepcache.DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    with stepmask.apply(pipe, fora(pipe)):
        helper.enable()
        with pytest.raises(UnsupportedModelError, match="did not run at a step at which"):
            case.run(pipe)
        helper.disable()
    assert torch.equal(case.run(pipe), plain)


# --- forward hooks


@pytest.mark.parametrize("name", ["up_blocks.0.resnets.0", "mid_block", "conv_norm_out"])
@pytest.mark.shows("forward hooks that read values of blocks", apply="verified; nothing is left out then")
def test_what_a_forward_hook_reads_is_there(name):
    """A module that it is on counts as read: its value is the one that the mask says."""
    pipe = SD.build()
    plain = SD.run(pipe)
    mask = random_actions(pipe, 3, share=0.4, forecasts=0.5)
    assert make_plan(mask, describe(pipe)).cells["dead"] > 0
    wanted = by_reference(pipe, mask, calls_of(SD, SD.steps), lambda: SD.run(pipe))
    seen = []
    hook = pipe.unet.get_submodule(name).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    with stepmask.apply(pipe, mask):
        assert torch.equal(SD.run(pipe), wanted)
    assert seen and all(value.isfinite().all() for value in seen)
    hook.remove()
    assert torch.equal(SD.run(pipe), plain)


def test_hooks_that_come_and_go_under_a_mask():
    pipe = SD.build()
    SD.run(pipe)
    seen = []
    with stepmask.apply(pipe, fora(pipe)) as handle:
        wanted = SD.run(pipe)
        reuses = handle.summary().reuses
        hook = pipe.unet.mid_block.register_forward_hook(lambda module, args, output: seen.append(output))
        assert torch.equal(SD.run(pipe), wanted) and all(value.isfinite().all() for value in seen)
        assert handle.summary().reuses > reuses
        hook.remove()
        inner = pipe.unet.mid_block.resnets[0].conv1.register_forward_hook(lambda *_: None)
        assert torch.equal(SD.run(pipe), wanted)
        assert handle.summary().reuses == reuses, "within a site all is there whenever it runs"
        inner.remove()


# --- values that break images


def test_forecasts_that_leave_the_numbers_are_told():
    pipe = ddim_pipeline()
    graph = describe(pipe)
    actions = np.full((4, len(graph)), Action.compute, np.uint8)
    actions[2:] = Action.linear
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(4)
    blank = mask_of(np.ones(actions.shape, bool), graph, scheduler)
    mask = blank.with_actions(actions, gains=np.full(actions.shape, 100.0))
    pipe.unet.requires_grad_(False)
    pipe.unet.mid_block.resnets[0].conv2.bias.fill_(1e38)
    with stepmask.apply(pipe, mask):
        check_refused(
            "are no finite numbers: .*large gains", pipe, 1, generator(), num_inference_steps=4,
            error=UnsupportedModelError,
        )  # fmt: skip
    check_refused("are no finite numbers", stepmask.evaluate, pipe, mask, seeds=1, speed=False)


def test_a_broken_sample_is_told_where_the_last_row_holds():
    """What the denoiser makes there is as it was before the sample broke."""
    pipe, made = ddim_pipeline(), []

    def break_third(module, args, output):
        made.append(output * torch.nan if len(made) == 2 else output)
        return made[-1]

    pipe.unet.conv_out.register_forward_hook(break_third)
    with stepmask.apply(pipe, schedules.key_steps(pipe, 4, [0, 1], forecast=None)):
        check_refused("are no finite numbers", pipe, 1, generator(), num_inference_steps=4, error=UnsupportedModelError)
    assert made[3].isfinite().all()


def test_runs_that_end_early_in_no_numbers_are_told():
    """The last row of the mask is never reached, nor are the decoder's pictures of use to anyone."""
    case = replace(BY_NAME["Stable Diffusion XL"], steps=10, options={"denoising_end": 0.6})
    pipe = case.build()
    case.run(pipe)
    mask = schedules.fora(pipe, case.steps, 2)
    hook = pipe.unet.conv_out.register_forward_hook(lambda module, args, output: output * torch.nan)
    with stepmask.apply(pipe, mask):
        check_refused("are no finite numbers", case.run, pipe, error=UnsupportedModelError)
    hook.remove()
    with stepmask.apply(pipe, mask):
        assert case.run(pipe).isfinite().all()


# --- gradients and lifetime


@pytest.mark.parametrize("forecasts", [0.0, 0.6])
@pytest.mark.shows("guidance by gradients at every step", apply="verified; held values are constants")
def test_guidance_by_gradients_at_every_step(forecasts):
    """What is held is a constant: a gradient does not go back into the step that made it."""
    model, twin, scheduler = *(tiny_model("UNet2DModel").requires_grad_(False) for _ in range(2)), ddim()
    mask = random_mask(model, scheduler, 6, seed=3, share=0.4, forecasts=forecasts)

    def loop(denoiser, running=None, backward=True):
        scheduler.set_timesteps(6)
        sample = random(1, 3, 16, 16, seed=2)
        for row, t in enumerate(scheduler.timesteps):
            if running is not None:
                running.row = row
            sample = sample.detach().requires_grad_()
            noise = denoiser(sample, t).sample
            loss = scheduler.step(noise, t, sample).pred_original_sample.square().mean()
            if backward:
                loss.backward()
            gradient = sample.grad if backward else torch.autograd.grad(loss, sample)[0]
            sample = scheduler.step(noise.detach(), t, sample.detach()).prev_sample - 0.1 * gradient
        return sample.detach()

    with reference(twin, mask) as running:
        wanted = loop(twin, running, backward=False)
    with stepmask.apply(model, mask, scheduler=scheduler):
        assert torch.equal(loop(model), wanted)


@pytest.mark.parametrize("case", [SD, BY_NAME["Stable Diffusion, image to image"]], ids=lambda case: case.name)
def test_nothing_is_held_once_the_call_has_returned(case):
    pipe = case.build()
    case.run(pipe)
    with stepmask.apply(pipe, random_actions(pipe, 3, share=0.3), eliminate_dead=False) as handle:
        interrupted(case, 1).run(pipe)
        (executor,) = handle._executors.values()
        assert executor.meter.held == 0 < executor.meter.peak and handle.summary().rows == 2
    assert "maybe_free_model_hooks" not in vars(pipe)


def test_a_loop_of_ones_own_lets_go_when_asked():
    model, scheduler = tiny_model("UNet2DModel"), ddim()
    mask = random_mask(model, scheduler, 6, share=0.3)
    scheduler.set_timesteps(6)
    with stepmask.apply(model, mask, scheduler=scheduler, eliminate_dead=False) as handle, torch.no_grad():
        for t in scheduler.timesteps[:2]:
            model(random(1, 3, 16, 16), t)
        (executor,) = handle._executors.values()
        assert executor.meter.held > 0
        handle.release()
        assert executor.meter.held == 0


# --- batches at mixed steps


@pytest.mark.shows("batches at mixed steps (stream batches, parallel steps)", apply="refused")
def test_a_batch_at_different_steps_is_refused():
    """As stream batches and parallel steps have it."""
    model, scheduler = tiny_model("UNet2DModel"), ddim()
    scheduler.set_timesteps(4)
    mask = schedules.fora(describe(model), scheduler.timesteps.tolist(), 2)
    with stepmask.apply(model, mask, scheduler=scheduler), torch.no_grad():
        with pytest.raises(PositionError, match="the samples of one denoiser call stand at different steps"):
            model(random(4, 3, 16, 16), scheduler.timesteps.clone())
        model(random(4, 3, 16, 16), scheduler.timesteps[:1].repeat(4))


def test_parallel_sampling_is_refused():
    parts = {"text_encoder": None, "tokenizer": None, "scheduler": diffusers.DDIMParallelScheduler(steps_offset=1)}
    pipe = quiet(diffusers.StableDiffusionParadigmsPipeline(vae(), unet=tiny_unet(), **parts, **SAFE))
    pipe.wrapped_unet = pipe.unet
    inputs = {name: value for name, value in sd_texts(1).items() if name != "guidance_scale"}
    with stepmask.apply(pipe, schedules.fora(pipe, 10, 2)):
        check_refused(
            "stand at different steps", pipe, **inputs, height=32, width=32, parallel=4, num_inference_steps=10,
            generator=generator(), error=PositionError,
        )  # fmt: skip


def test_calls_without_end_at_one_row_are_refused():
    model, scheduler = tiny_model("UNet2DModel"), ddim()
    scheduler.set_timesteps(4)
    sample = random(1, 3, 16, 16)
    with stepmask.apply(
        model, schedules.fora(describe(model), scheduler.timesteps.tolist(), 2), scheduler=scheduler
    ) as handle:

        def call_often(like):
            for number in range(300):
                model(like(number), scheduler.timesteps[0])

        with torch.no_grad():
            check_refused("again and again at row 0", call_often, lambda number: sample, error=PositionError)
            (executor,) = handle._executors.values()
            assert executor.meter.held == 0 and len(executor._streams) == 0
            check_refused("again and again at row 0", call_often, lambda number: sample + number, error=PositionError)


# --- threads


class Second(threading.Thread):
    """Does something while the first thread waits; keeps what it raised."""

    def __init__(self, work) -> None:
        super().__init__()
        self.work, self.error = work, None

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.error = error

    @classmethod
    def once(cls, work) -> "Second":
        thread = cls(work)
        thread.start()
        thread.join()
        return thread


def sample(pipe, seed: int, **options) -> torch.Tensor:
    return pipe(1, generator(seed), num_inference_steps=6, output_type="pt", **options).images


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("scheduler", [diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler])
@pytest.mark.shows("a second thread in mid-run", apply="refused, and the run that it disturbed")
def test_a_second_call_within_a_step(at, scheduler):
    """It sets the scheduler anew before it is refused: the first run ends as it would have alone, or in words."""
    pipe = quiet(diffusers.DDPMPipeline(tiny_model("UNet2DModel"), scheduler()))
    mask = random_mask(pipe.unet, copy.deepcopy(pipe.scheduler), 6, seed=3, forecasts=0.5)
    seen, seconds = [], []

    def call_too(*_):
        seen.append(1)
        if len(seen) == at + 1 and not seconds:
            seconds.append(Second.once(lambda: pipe(1, num_inference_steps=6)))

    with stepmask.apply(pipe, mask):
        wanted = pipe(1, generator(), num_inference_steps=6, output_type="np").images
        hook = pipe.unet.conv_in.register_forward_pre_hook(call_too)
        try:
            made = pipe(1, generator(), num_inference_steps=6, output_type="np").images
            assert np.array_equal(made, wanted) and at == 5
        except PositionError as error:
            assert "another thread" in str(error)
        hook.remove()
        assert "another thread called the UNet2DModel in the middle of a" in str(seconds[0].error)
        again = pipe(1, generator(), num_inference_steps=6, output_type="np").images
        assert np.array_equal(again, wanted), "the next run is right"


def test_a_second_call_between_two_steps(monkeypatch):
    """Whichever comes first after the other has set the timesteps anew: nobody goes on in silence."""
    pipe = ddim_pipeline()
    mask = random_mask(pipe.unet, copy.deepcopy(pipe.scheduler), 6, seed=3)
    started, go_on = threading.Event(), threading.Event()
    step, rows, seconds = pipe.scheduler.step, [], []

    def wait(*_):
        started.set()
        go_on.wait(20)

    def stepped(*args, **kwargs):
        rows.append(1)
        if len(rows) == 3:
            seconds.append(Second(lambda: sample(pipe, 1)))
            monkeypatch.setattr(pipe, "progress_bar", lambda steps: (wait(), steps)[1])  # its timesteps are set then
            seconds[0].start()
            started.wait(20)
        return step(*args, **kwargs)

    with stepmask.apply(pipe, mask):
        wanted = sample(pipe, 0)
        monkeypatch.setattr(pipe.scheduler, "step", stepped)
        check_refused("another thread called the UNet2DModel in the middle of a run", sample, pipe, 0)
        monkeypatch.undo()
        go_on.set()
        seconds[0].join()
        assert torch.equal(sample(pipe, 0), wanted)


@pytest.mark.parametrize("where", ["within a step", "between two"])
def test_masks_are_not_swapped_under_another_threads_call(where):
    pipe = ddim_pipeline()
    mask = random_mask(pipe.unet, copy.deepcopy(pipe.scheduler), 6, seed=3)
    errors = []

    def change(*_):
        if not errors:
            errors.extend(Second.once(lambda call=call: call()).error for call in changes)

    with stepmask.apply(pipe, mask) as handle:
        wanted = sample(pipe, 0)
        changes = [handle.remove, lambda: stepmask.remove(pipe), lambda: stepmask.apply(pipe, mask)]
        if where == "within a step":
            hook = pipe.unet.mid_block.register_forward_pre_hook(change)
        else:
            step = pipe.scheduler.step
            pipe.scheduler.step = lambda *args, **kwargs: (change(), step(*args, **kwargs))[1]
        assert torch.equal(sample(pipe, 0), wanted)
        if where == "within a step":
            hook.remove()
        else:
            del pipe.scheduler.step
        assert [type(error) for error in errors] == [StepMaskError] * 3
        assert all("while another thread samples with the DDIMPipeline" in str(error) for error in errors)
    Second.once(lambda: stepmask.apply(pipe, mask)).join()
    stepmask.remove(pipe)
