"""Recipes judged: the converged run, and the work that a recipe takes."""

import numpy as np
import pytest
import torch
from cases import BY_NAME
from diffusers import DDIMScheduler, DDPMScheduler

import stepmask
from refusal import check_refused
from stepmask import Recipe, Resolution, evaluate, measure_cost, schedules
from stepmask.evaluation import converged
from stepmask.runtime.task import Task
from stepmask.runtime.work import Steps, work_of
from tiny import ddim_pipeline, dit_pipeline, random_mask


def test_a_plain_recipe_changes_nothing():
    result = evaluate(ddim_pipeline(), Recipe(num_inference_steps=4), seeds=2, speed=False)
    assert torch.equal(result.full, result.masked) and result.against == "the full run"
    assert (result.macs_fraction, result.evaluations) == (1.0, pytest.approx(4))


def test_a_recipe_with_a_mask_is_judged_as_the_mask():
    pipe = ddim_pipeline()
    mask = schedules.fora(pipe, 4, interval=2)
    alone, within = (
        evaluate(pipe, one, seeds=2, speed=False) for one in (mask, Recipe(num_inference_steps=4, mask=mask))
    )
    assert torch.equal(alone.masked, within.masked)
    assert (alone.macs_per_image, alone.peak_cache_bytes) == (within.macs_per_image, within.peak_cache_bytes)
    assert within.evaluations == pytest.approx(4 * alone.macs_fraction) == alone.evaluations
    assert "evaluations of the denoiser" in str(within)


def test_the_converged_run():
    """Doubling its steps changes little, and runs of more steps come nearer to it."""
    pipe, call = dit_pipeline(), {"class_labels": [3, 7]}
    found = converged(pipe, 2, enough=40.0, call_kwargs=call)
    (steps, change), *_ = found.changes.items()
    assert steps == found.num_inference_steps == 100 and change >= 40
    assert f"converged at 100 steps: 100 steps differ from 50 by {change:.1f} dB" == str(found)
    options = {"seeds": 2, "speed": False, "reference": found.images, "call_kwargs": call}
    few, more = (evaluate(pipe, Recipe(num_inference_steps=steps), **options).psnr.mean for steps in (4, 30))
    assert more > few + 3


def test_what_does_not_converge():
    pipe = ddim_pipeline()
    pipe.scheduler = DDIMScheduler(num_train_timesteps=100)
    check_refused("has not converged after 100 steps, which differ from 50 by", converged, pipe, 1, enough=99.0)
    check_refused('a tensor of images, or "converged", got', evaluate, pipe, Recipe(num_inference_steps=4), seeds=1,
        reference="full")  # fmt: skip
    pipe.scheduler = DDPMScheduler()
    check_refused("DDPMScheduler draws noise at every step", converged, pipe, 1)


def measured(pipe, recipe: Recipe, call: dict, run) -> float:
    """Samples times pixels of all denoiser calls of a run: what they cost where every pixel costs alike."""
    denoiser, total = getattr(pipe, "unet", None) or pipe.transformer, []
    hook = denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: total.append(int(np.prod(args[0].shape))), with_kwargs=True
    )
    with stepmask.apply(pipe, recipe):
        run()
    hook.remove()
    return sum(total)


def test_the_work_of_guidance_and_resolution_is_what_runs():
    case = BY_NAME["DiT"]
    pipe, call = case.build(), {"class_labels": [3, 7]}
    task = Task(pipe, 4, call_kwargs=call)
    full = measured(pipe, Recipe(num_inference_steps=4), call, lambda: case.run(pipe))
    for letters, evaluations in (("1111", 4.0), ("1100", 3.0), ("1h1h", 3.0), ("1000", 2.5)):
        recipe = Recipe(num_inference_steps=4, guidance=letters)
        assert work_of(recipe, task).evaluations == pytest.approx(evaluations)
        assert measured(pipe, recipe, call, lambda: case.run(pipe)) == pytest.approx(full * evaluations / 4)
    recipe = Recipe(num_inference_steps=4, resolution=Resolution(factor=0.5, switch=3))
    share = Steps(task).table(recipe.resolution).step_macs / task.costs.step_macs
    assert 0.1 < share < 0.4, "a quarter of the tokens"
    assert work_of(recipe, task).evaluations == pytest.approx(1 + 3 * share)
    both = Recipe(num_inference_steps=4, resolution=recipe.resolution, guidance="1001")
    assert work_of(both, task).evaluations == pytest.approx(1 + 2 * share)


def test_the_work_of_a_mask_counts_what_begins_anew():
    """Both halves follow the mask from where they begin; a half that pauses computes in full when it goes on."""
    pipe = dit_pipeline()
    pipe.scheduler.set_timesteps(6)
    mask = random_mask(pipe.transformer, pipe.scheduler, 6)
    task = Task(pipe, 6, call_kwargs={"class_labels": [3]})
    plan, cost = stepmask.make_plan(mask, task.graph), measure_cost(pipe)
    alone = work_of(Recipe(num_inference_steps=6, mask=mask), task)
    assert alone.evaluations == pytest.approx(6 * cost.fraction(plan)) and alone.fraction == cost.fraction(plan)
    guided = work_of(Recipe(num_inference_steps=6, mask=mask, guidance="100100"), task)
    assert guided.evaluations == pytest.approx(0.5 * alone.evaluations + 0.5 * 2)
    switched = work_of(Recipe(num_inference_steps=6, mask=mask, resolution=Resolution(factor=0.5, switch=3)), task)
    late = plan.from_row(3)
    low = Steps(task).table(Resolution(factor=0.5, switch=3))
    early = mask.with_actions(mask.actions[:3], timesteps=mask.timesteps[:3], **mask.forecasting(range(3)))
    wanted = cost.total_macs(late) + low.total_macs(stepmask.make_plan(early, task.graph, eliminate_dead=False))
    assert switched.cost == pytest.approx(wanted, rel=0.15)
