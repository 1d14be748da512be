"""Schedulers that are told the run of a recipe."""

import copy
import warnings

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from loops import unconditional_loop

import stepmask
from refusal import check_refused
from stepmask import Recipe
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.runtime.sampling import sample
from tiny import FEWEST, ddim_pipeline, ddpm_pipeline, generator, random_mask, tiny_model

STEPS = 5


def run(pipe, steps: int = STEPS) -> torch.Tensor:
    return sample(pipe, {"batch_size": 2}, [0, 1], steps)


def loop(scheduler) -> SamplerLoop:
    return SamplerLoop(tiny_model("UNet2DModel"), scheduler)


SCHEDULERS = [
    DDIMScheduler(), DDIMScheduler(timestep_spacing="trailing"), DDPMScheduler(),
    diffusers.DPMSolverMultistepScheduler(), EulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler(shift=3.0),
    diffusers.HeunDiscreteScheduler(), diffusers.UniPCMultistepScheduler(), diffusers.DEISMultistepScheduler(),
]  # fmt: skip
UNEVEN = (950, 800, 420, 130, 30)


@pytest.mark.parametrize("scheduler", SCHEDULERS[:6] + SCHEDULERS[7:], ids=lambda one: type(one).__name__)
def test_the_timesteps_of_its_own_change_nothing(scheduler):
    pipe = loop(scheduler)
    plain = run(pipe)
    own = [float(t) for t in scheduler.timesteps]
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=own)):
        found = run(pipe)
    # flows are told a thousandth of their timesteps, which rounds
    assert torch.allclose(found, plain, atol=2e-5) if "Flow" in type(scheduler).__name__ else torch.equal(found, plain)
    assert torch.equal(run(pipe), plain) and not vars(scheduler).keys() & {"set_timesteps", "step"}


@pytest.mark.shows("a recipe: timesteps of its own", apply="bitwise", learn="verified")
@torch.no_grad()
def test_uneven_timesteps_of_ddim():
    pipe = ddim_pipeline()
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=UNEVEN)):
        found = pipe(
            batch_size=2, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), output_type="pt"
        )
    kept = pipe.scheduler.alphas_cumprod
    image = torch.randn(2, 3, *[pipe.unet.config.sample_size] * 2, generator=generator())
    for t, following in zip(UNEVEN, (*UNEVEN[1:], None), strict=True):
        noise = pipe.unet(image, t).sample
        clean = ((image - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()).clamp(-1, 1)
        after = torch.tensor(1.0) if following is None else kept[following]
        image = after.sqrt() * clean + (1 - after).sqrt() * noise
    assert torch.allclose(found.images, (image / 2 + 0.5).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("scheduler", SCHEDULERS[2:], ids=lambda one: type(one).__name__)
def test_schedulers_that_take_timesteps_get_them(scheduler):
    pipe = loop(copy.deepcopy(scheduler))
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=UNEVEN)):
        run(pipe)
        found = [float(t) for t in pipe.scheduler.timesteps]
    assert sorted(set(found), reverse=True) == pytest.approx(UNEVEN, rel=1e-4)


@pytest.mark.parametrize("scheduler", [SCHEDULERS[4], SCHEDULERS[5]], ids=lambda one: type(one).__name__)
def test_sigmas_are_those_of_the_run(scheduler):
    """Whatever shift the scheduler has for sigmas of its own."""
    pipe, sigmas = loop(copy.deepcopy(scheduler)), (0.9, 0.7, 0.4, 0.2, 0.1)
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, sigmas=sigmas)):
        run(pipe)
        assert pipe.scheduler.sigmas.tolist() == pytest.approx([*sigmas, 0.0])


def test_a_mask_at_timesteps_of_its_own():
    """The mask bit for bit, on the run of the recipe."""
    pipe = ddpm_pipeline()
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=UNEVEN)):
        run(pipe)
        mask = random_mask(pipe.unet, pipe.scheduler, STEPS)
        wanted = unconditional_loop(pipe, mask, steps=STEPS)
    assert tuple(mask.timesteps) == UNEVEN
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=UNEVEN, mask=mask)) as handle:
        found = pipe(batch_size=2, num_inference_steps=STEPS, generator=generator(), output_type="np").images
        assert handle.mask.ran.cells["compute"] < mask.compute.size
    assert torch.equal(torch.from_numpy(found).movedim(-1, 1), wanted)


def test_a_mask_of_ones_changes_nothing():
    pipe = ddim_pipeline()
    plain = run(pipe)
    ones = random_mask(pipe.unet, pipe.scheduler, STEPS, share=1.0)
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, mask=ones)):
        assert torch.equal(run(pipe), plain)


def test_masks_are_learned_for_timesteps_of_a_recipe():
    pipe = ddim_pipeline()
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=UNEVEN)):
        mask = stepmask.learn(pipe, STEPS, 0.7, progress=False, **FEWEST)
    recipe = Recipe(num_inference_steps=STEPS, timesteps=UNEVEN, mask=mask)
    assert tuple(mask.timesteps) == UNEVEN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stepmask.evaluate(pipe, recipe, seeds=1, speed=False).macs_fraction <= 0.7


def test_a_copy_of_the_scheduler_follows_the_recipe_too():
    pipe = ddim_pipeline()
    with stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=UNEVEN)):
        other = copy.deepcopy(pipe.scheduler)
        other.set_timesteps(STEPS)
        assert tuple(other.timesteps.tolist()) == UNEVEN
        assert pipe.scheduler.timesteps.tolist() != list(UNEVEN), "nothing was done to the original"


def test_what_is_refused():
    pipe = ddim_pipeline()
    recipe = Recipe(num_inference_steps=STEPS, timesteps=UNEVEN)
    with stepmask.apply(pipe, recipe):
        check_refused("recipe has 5 steps and the call asks for 6: call with num_inference_steps=5", run, pipe, 6)
        other = ddpm_pipeline(pipe.scheduler)
        check_refused("follows another recipe already", stepmask.apply, other, recipe)
        pipe.scheduler = DDIMScheduler()
        check_refused("has another scheduler than when the recipe was applied", run, pipe)
    check_refused("begins at timestep 1000, and DDIMScheduler was trained on 1000", stepmask.apply, pipe,
        Recipe(num_inference_steps=1, timesteps=[1000]))  # fmt: skip
    check_refused("whole timesteps alone", stepmask.apply, pipe, Recipe(num_inference_steps=1, timesteps=[3.5]))
    check_refused(
        "DDIMScheduler is not told its sigmas", stepmask.apply, pipe, Recipe(num_inference_steps=1, sigmas=[1])
    )
    for scheduler in (diffusers.PNDMScheduler(), diffusers.UniPCMultistepScheduler(use_flow_sigmas=True)):
        check_refused("sets its timesteps itself", stepmask.apply, loop(scheduler), recipe)
    check_refused("the recipe was made for X, the run uses DDIMScheduler", stepmask.apply, pipe,
        Recipe(num_inference_steps=1, scheduler={"class": "X", "config": {}}))  # fmt: skip
    check_refused(r"cannot read mask recipe\.json", stepmask.apply, pipe, "recipe.json")
    assert torch.equal(run(pipe), run(ddim_pipeline())), "nothing is left of what was refused"


def test_removed_by_whoever_comes():
    pipe = ddim_pipeline()
    plain, mask = run(pipe), random_mask(pipe.unet, pipe.scheduler, STEPS)
    handle = stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=UNEVEN, mask=None))
    stepmask.remove(pipe)
    assert torch.equal(run(pipe), plain)
    check_refused("was removed from the pipeline: apply it again", handle.__enter__)
    stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, timesteps=UNEVEN))
    with stepmask.apply(pipe, mask):
        masked = run(pipe)
    stepmask.apply(pipe, Recipe(num_inference_steps=STEPS, mask=mask))
    assert torch.equal(run(pipe), masked) and stepmask.runtime.apply.is_applied(pipe.unet)
    stepmask.remove(pipe)
    assert torch.equal(run(pipe), plain) and not stepmask.runtime.apply.is_applied(pipe.unet)
