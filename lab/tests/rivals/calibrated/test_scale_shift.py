"""Scale and shift of held values: the best fit per channel, applied where it was fitted, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes import GUIDED, assert_unchanged, snapshot
from stepmask import Action, State, apply, evaluate, make_plan
from stepmask.inspection.describe import describe
from stepmask.inspection.registry import denoiser_of
from stepmask.runtime.noise import Noise
from stepmask.schedules import fora, key_steps
from stepmask_lab.rivals import fit_scale_shift
from stepmask_lab.rivals.calibrated.scale_shift import least_squares
from stepmask_lab.rivals.calibrated.scaled_plan import Affine, ScaledPlan
from tiny import ddim_pipeline, dit_pipeline, generator, random_mask

STEPS = 5
PIPELINES = {**GUIDED, "U-Net": lambda: (ddim_pipeline(), {})}


@pytest.mark.parametrize("shape", [(4, 6, 5, 5), (4, 9, 6), (7, 6), (2, 6, 3, 4, 4)])
def test_least_squares_finds_what_was_done_to_each_channel(shape):
    held = torch.randn(shape, generator=generator(0)) + 3
    scale, shift = torch.linspace(0.5, 2, 6), torch.linspace(-1, 1, 6)
    true = Affine(scale, shift)(held)
    found = least_squares(held, true)
    assert torch.allclose(found.scale, scale, atol=1e-4) and torch.allclose(found.shift, shift, atol=1e-3)
    noisy = true + torch.randn(shape, generator=generator(1))
    best = (least_squares(held, noisy)(held) - noisy).square().mean()
    for other in (
        Affine(scale, shift),
        Affine(found.scale * 1.02, found.shift),
        Affine(found.scale, found.shift + 0.05),
    ):
        assert (other(held) - noisy).square().mean() >= best


def test_constant_channels_are_shifted():
    found = least_squares(torch.full((2, 3, 4), 2.0), torch.full((2, 3, 4), 5.0))
    assert torch.equal(found.scale, torch.ones(4)) and torch.allclose(found.shift, torch.full((4,), 3.0))


@pytest.mark.parametrize("forecasts", [0.0, 0.5], ids=["binary", "forecasts"])
@pytest.mark.parametrize("name", PIPELINES)
def test_every_held_cell_of_the_plan_is_corrected_and_the_run_is_the_one_that_was_fitted(name, forecasts):
    pipe, kwargs = PIPELINES[name]()
    before = snapshot(denoiser_of(pipe))
    mask = random_mask(denoiser_of(pipe), pipe.scheduler, STEPS, seed=2, only_blocks=True, forecasts=forecasts)
    assert mask.is_binary != bool(forecasts) and (mask.gains is not None) == bool(forecasts)
    seen = []
    noise = Noise(pipe, STEPS, 0, kwargs)
    hook = denoiser_of(pipe).register_forward_hook(lambda module, args, output: seen.append(output))
    plan = fit_scale_shift(pipe, mask, num_images=2, call_kwargs=kwargs)
    fitted = [output[0] for output in seen]
    held = np.argwhere(make_plan(mask, describe(pipe)).states == State.reuse)
    assert sorted(plan.corrections) == sorted(map(tuple, held.tolist())) and len(held)
    seen.clear()
    with apply(pipe, plan):
        noise.images(0, 2)
    hook.remove()
    assert len(seen) == len(fitted)
    for now, then in zip(seen, fitted, strict=True):
        assert torch.allclose(now[0], then, rtol=1e-3, atol=1e-4), "the executor runs what was fitted"
    assert_unchanged(denoiser_of(pipe), before)


def test_corrections_of_nothing_change_nothing():
    pipe = ddim_pipeline()
    mask = fora(pipe, STEPS, 2)
    plan = make_plan(mask, describe(pipe))
    bare = ScaledPlan(plan.states, plan.keep, plan.mask, plan.graph)
    one, other = (evaluate(pipe, what, seeds=2, speed=False) for what in (mask, bare))
    assert torch.equal(one.masked, other.masked) and one.macs_fraction == other.macs_fraction


def test_a_mask_may_name_some_of_the_sites():
    pipe = dit_pipeline()
    whole = fora(pipe, STEPS, 2)
    some = replace(whole, compute=whole.compute[:, 1::2], forecast=whole.forecast[:, 1::2], sites=whole.sites[1::2])
    plan = fit_scale_shift(pipe, some, num_images=1)
    assert {plan.sites[site] for _, site in plan.corrections} == set(some.sites)


def test_a_late_start_keeps_what_it_can():
    pipe = dit_pipeline()
    mask = fora(pipe, 6, 3)
    plan = fit_scale_shift(pipe, mask, num_images=1)
    assert {row for row, _ in plan.corrections} == {1, 2, 4, 5}
    late = plan.from_row(2)
    assert {row for row, _ in late.corrections} == {2, 3}, "row 2 computes; rows 4 and 5 hold row 3 as before"
    assert all(late.corrections[row, site] is plan.corrections[row + 2, site] for row, site in late.corrections)
    assert plan.from_row(0) is plan


def test_forecasts_with_weights_read_as_many_values_as_they_will():
    pipe = dit_pipeline()
    mask = key_steps(pipe, 8, [0, 1, 2, 4, 6])
    (stack,) = mask.sites
    kinds = mask.actions
    kinds[3] = Action.hold
    weights = {stack: np.tile([[1.0], [0.9], [0.8]], (8, 1, 1))}
    mask = mask.with_actions(kinds, weights=weights)
    noise, seen = Noise(pipe, 8, 0), []
    hook = denoiser_of(pipe).register_forward_hook(lambda module, args, output: seen.append(output[0]))
    plan = fit_scale_shift(pipe, mask, num_images=2)
    assert [row for row, _ in plan.corrections] == [3]
    fitted = list(seen)
    seen.clear()
    with apply(pipe, plan):
        noise.images(0, 2)
    hook.remove()
    for now, then in zip(seen, fitted, strict=True):
        assert torch.allclose(now, then, rtol=1e-3, atol=1e-4)
