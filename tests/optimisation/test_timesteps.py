"""Timesteps by the schedule alone and learned through the chain, where the best ones are known."""

import diffusers
import numpy as np
import pytest
import torch

import stepmask
from refusal import check_refused
from stepmask import Recipe
from stepmask.optimisation.closed_form import distinct, error_bound, optimised_timesteps, order_of
from stepmask.optimisation.learned_timesteps import learned_timesteps
from stepmask.runtime.sampling import sample
from tiny import ddim_pipeline

SCHEDULERS = [
    diffusers.DDIMScheduler(), diffusers.DPMSolverMultistepScheduler(), diffusers.EulerDiscreteScheduler(),
    diffusers.FlowMatchEulerDiscreteScheduler(),
]  # fmt: skip
named = pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda one: type(one).__name__)


@named
def test_timesteps_of_the_schedule_are_a_run(scheduler):
    """They fall from the first timestep of all, and their bound is smaller than that of even ones."""
    times = optimised_timesteps(scheduler, 6)
    trained = scheduler.config.num_train_timesteps
    assert len(times) == 6 and list(times) == sorted(set(times), reverse=True) and times[0] >= trained - 1
    recipe = Recipe(num_inference_steps=6, timesteps=times)
    assert recipe.timesteps == pytest.approx(times)
    pipe = stepmask.inspection.sampler_loop.SamplerLoop(ddim_pipeline().unet, scheduler)
    with stepmask.apply(pipe, recipe):
        assert sample(pipe, {"batch_size": 1}, [0], 6).isfinite().all()


@named
@pytest.mark.parametrize("latent", [True, False])
def test_the_bound_is_smallest_there(scheduler, latent):
    """No small change of one timestep makes it smaller by more than rounding does."""
    if "Flow" in type(scheduler).__name__:
        pytest.skip("its first lambda is put in by hand")
    kept = scheduler.alphas_cumprod.double().numpy()
    logs = 0.5 * np.log(kept / (1 - kept))
    order, power = order_of(scheduler), 2 if latent else 1

    def bound(times) -> float:
        return float(error_bound(torch.tensor(np.interp([*times, 0], np.arange(1000), logs)), order, power))

    times = optimised_timesteps(scheduler, 5, latent=latent)
    even = np.linspace(999, 0, 6)[:-1]
    assert bound(times) < bound(even)
    for i in range(1, 5):
        for move in (-8, 8):
            moved = list(times)
            moved[i] += move
            assert bound(moved) > bound(times) * 0.998


def test_the_bound_of_one_order_is_a_sum_of_rectangles():
    logs = torch.linspace(-3, 3, 5, dtype=torch.float64)
    sigma, alpha = torch.sigmoid(-2 * logs[:-1]).sqrt(), torch.sigmoid(2 * logs[:-1]).sqrt()
    assert error_bound(logs, 1, 2).item() == pytest.approx((logs.exp().diff() * sigma**2 / alpha).sum().item())


@pytest.mark.parametrize(("times", "whole", "found"), [
    ([999, 500.4, 500.2, 0.2], True, (999, 500, 499, 0)),
    ([3, 2.2, 2.1, -4], True, (3, 2, 1, 0)),
    ([1, 1, 1], True, (2, 1, 0)),
    ([5.5, 5.5, 0.25], False, (5.5, 5.499, 0.25)),
])  # fmt: skip
def test_distinct(times, whole, found):
    assert distinct(np.array(times, float), whole) == pytest.approx(found)


def test_no_timesteps_to_optimise():
    check_refused("sets its timesteps itself", optimised_timesteps, diffusers.PNDMScheduler(), 5)
    check_refused("steps are more than", optimised_timesteps, diffusers.DDIMScheduler(num_train_timesteps=10), 20)


@pytest.mark.parametrize("whole", [True, False])
def test_learned_timesteps_are_those_that_made_the_reference(whole):
    """A smooth map of timesteps to samples, of which a reference was made: found again, from afar."""
    mixing = torch.randn(4, 3, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(times) -> torch.Tensor:
        curve = torch.tensor(times, dtype=torch.float64) / 1000
        return torch.einsum("t,tnd->nd", curve + curve**2, mixing)

    target = (999.0, 640.0, 300.0, 60.0)
    told: list[float] = []
    found = learned_timesteps(run, (999, 750, 500, 250), run(target), whole=whole, iterations=8, tell=told.append)
    assert found == pytest.approx(target, abs=1.0 if whole else 0.1)
    assert told == sorted(told) and told[-1] > 40


def test_timesteps_that_are_best_already_stay():
    calls = []

    def run(times) -> torch.Tensor:
        calls.append(tuple(times))
        return torch.tensor([list(times)])

    times = (9.0, 5.0, 1.0)
    assert learned_timesteps(run, times, run(times), whole=True, iterations=3) == times
    assert calls[1] == times and len(calls) < 10


def test_learned_timesteps_of_a_pipeline():
    """Nearer to the run of many steps than the timesteps that they began with."""
    from tiny import dit_pipeline

    pipe, call = dit_pipeline(), {"class_labels": [3, 7], "guidance_scale": 4.0}

    def run(times) -> torch.Tensor:
        with stepmask.apply(pipe, Recipe(num_inference_steps=len(times), timesteps=times)):
            return sample(pipe, call, [0, 1], len(times))

    reference, start = sample(pipe, call, [0, 1], 60), (999.0, 960.0, 900.0)
    found = learned_timesteps(run, start, reference, whole=True, iterations=2)
    assert (run(found) - reference).square().mean() < (run(start) - reference).square().mean()
