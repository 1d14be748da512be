"""Plans with tables of predictions: the executor runs what the table says, and each rival's plan runs in a pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler

from fakes import assert_unchanged, snapshot
from gate import in_gate
from refusal import check_refused
from stepmask import StepMaskError, apply, describe, evaluate, learn, make_plan, schedules
from stepmask.inspection.registry import denoiser_of
from stepmask.liveness import State
from stepmask.runtime.noise import Noise
from stepmask.runtime.task import Task
from stepmask_lab.rivals.budcache.config import BudCache
from stepmask_lab.rivals.budcache.moves import drawn, neighbours, prefix
from stepmask_lab.rivals.budcache.search import search
from stepmask_lab.rivals.budcache.timesteps import budcache_recipe
from stepmask_lab.rivals.dpcache.plan import dpcache, dpcache_plan
from stepmask_lab.rivals.l2p.plan import l2p_plan
from stepmask_lab.rivals.meancache.plan import meancache, meancache_plan
from stepmask_lab.rivals.outputs import record_outputs
from stepmask_lab.rivals.predicted_plan import PredictedPlan, predicted
from stepmask_lab.rivals.predictors import chebyshev, differences
from stepmask_lab.rivals.spectrum.plan import spectrum, spectrum_plan
from stepmask_lab.rivals.taylorseer.plan import hicache_plan, taylorseer, taylorseer_plan
from tiny import ddim_pipeline, dit_pipeline

STEPS = 8
PIPELINES = {"dit": (dit_pipeline, "norm_out"), "unet": (ddim_pipeline, "conv_norm_out")}
PLANS = {
    "meancache": lambda pipe: meancache_plan(pipe, meancache(pipe, STEPS, 4, num_images=2)),
    "l2p": lambda pipe: l2p_plan(pipe, schedules.key_steps(pipe, STEPS, 4), num_images=2),
    "dpcache": lambda pipe: dpcache_plan(pipe, dpcache(pipe, STEPS, 4, num_images=2)),
    "spectrum": lambda pipe: spectrum_plan(pipe, spectrum(pipe, STEPS), share=0.5),
    "taylorseer": lambda pipe: taylorseer_plan(pipe, taylorseer(pipe, STEPS, 2)),
    "hicache": lambda pipe: hicache_plan(pipe, taylorseer(pipe, STEPS, 2, level="stack")),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_what_is_handed_out_is_what_the_table_says(name):
    """Seen at the input of the layer after the last block; the values before it are kept until their last read."""
    make, after = PIPELINES[name]
    pipe, seen = make(), []
    computed = [0, 1, 2, 4]
    table = chebyshev(computed, STEPS)
    plan = predicted(pipe, schedules.key_steps(pipe, STEPS, computed), table)
    hook = getattr(denoiser_of(pipe), after).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with apply(pipe, plan) as handle:
        Noise(pipe, STEPS, 0).images(0, 2)
        assert handle.peak_cache_bytes > 0
    hook.remove()
    values = torch.stack([seen[row] if row in computed else torch.zeros_like(seen[0]) for row in range(STEPS)])
    for row in range(STEPS):
        wanted = torch.tensordot(torch.tensor(table[row], dtype=torch.float32), values, 1)
        assert torch.allclose(seen[row], wanted, atol=1e-4), row
    site = int(np.flatnonzero((plan.states == State.forecast).any(0))[0])
    assert plan.keep[:, site].tolist() == [1, 2, 3, 3, 4, 4, 4, 0]


def test_lines_as_a_table_are_the_lines_of_masks():
    pipe = dit_pipeline()
    mask = schedules.key_steps(pipe, STEPS, [0, 2, 3, 6])
    one = evaluate(pipe, mask, seeds=2, speed=False)
    other = evaluate(pipe, predicted(pipe, mask, differences([0, 2, 3, 6], STEPS, 1)), seeds=2, speed=False)
    assert torch.allclose(one.masked, other.masked, atol=1e-5) and not torch.equal(one.masked, one.full)
    assert one.macs_fraction == other.macs_fraction and one.peak_cache_bytes == other.peak_cache_bytes


def test_a_table_that_reads_what_is_not_there_is_refused():
    pipe = dit_pipeline()
    plan = make_plan(schedules.key_steps(pipe, STEPS, [0, 4]), describe(pipe))
    check_refused("has computed before", PredictedPlan.of, plan, np.eye(STEPS, k=-1))
    check_refused("has computed before", PredictedPlan.of, plan, np.zeros((STEPS, STEPS)))


def test_a_late_start_extrapolates_by_lines():
    pipe = dit_pipeline()
    mask = schedules.key_steps(pipe, STEPS, [0, 1, 3, 5])
    plan = predicted(pipe, mask, chebyshev([0, 1, 3, 5], STEPS))
    late = plan.from_row(2)
    assert plan.from_row(0) is plan and late.table is None and late.num_rows == STEPS - 2
    with apply(pipe, late.mask):
        pass


@pytest.mark.parametrize("name", in_gate(PIPELINES, next(iter(PIPELINES))))
@pytest.mark.parametrize("method", PLANS)
def test_each_runs_at_the_cost_of_its_key_steps(method, name):
    pipe = PIPELINES[name][0]()
    plan = PLANS[method](pipe)
    key_steps = plan.mask.compute.all(1).sum()
    result = evaluate(pipe, plan, seeds=1, speed=False)
    assert key_steps / STEPS <= result.macs_fraction < key_steps / STEPS + 0.2
    assert torch.isfinite(result.masked).all() and not torch.equal(result.masked, result.full)
    if method in ("meancache", "l2p", "dpcache"):
        assert key_steps == 4 and plan.mask.provenance["denoiser_calls"] == STEPS


def test_products_of_outputs_are_those_of_a_run():
    pipe, last, returned = ddim_pipeline(), [], []
    denoiser = denoiser_of(pipe)
    hooks = [
        denoiser.conv_norm_out.register_forward_pre_hook(lambda module, args: last.append(args[0])),
        denoiser.conv_out.register_forward_hook(lambda module, args, output: returned.append(output)),
    ]
    outputs = record_outputs(pipe, 3, num_images=2)
    for hook in hooks:
        hook.remove()
    for seen, found in ((last, outputs.values), (returned, outputs.products)):
        values = torch.stack(seen, 1).flatten(2).double()
        products = values @ values.transpose(1, 2)
        scale = torch.diagonal(products, dim1=1, dim2=2).mean(1)[:, None, None]
        assert np.allclose(found, (products / scale).numpy(), rtol=1e-4)
    assert outputs.times[-1] == 0 and (np.diff(outputs.times) < 0).all()
    changes = outputs.errors(np.eye(3)[1:] - np.eye(3)[:-1])
    found = (values[:, 1:] - values[:, :-1]).norm(dim=2) / scale[:, :, 0].sqrt()
    assert np.allclose(changes, found.mean(0).numpy(), rtol=1e-3)


@pytest.mark.parametrize("rule", [meancache, dpcache])
def test_no_more_key_steps_than_steps(rule):
    with pytest.raises(StepMaskError, match=r"count must be a number of steps from . to 3, got 4"):
        rule(dit_pipeline(), 3, 4, num_images=1)


def test_moves_of_budcache_keep_the_budget_and_the_first_quarter():
    generator = np.random.default_rng(0)
    steps = drawn(28, 10, generator)
    found = neighbours(steps, 28, generator)
    assert prefix(10) == 2 and len(steps) == 10 and steps[:2] == (0, 1)
    assert len(found) > 30 and len(set(found)) == len(found)
    assert all(len(new) == 10 and new[:2] == (0, 1) and len(set(new) - set(steps)) == 1 for new in found)


def test_budcache_finds_the_best_schedule_of_a_known_loss():
    """28 steps and 10 evaluations, as published; the best are the first two and eight others."""
    wanted, reports = np.array([0, 1, 3, 4, 7, 11, 15, 19, 22, 26]), []

    def loss(steps):
        return float(np.square(np.array(steps) - wanted).sum()) / 1000

    (best,) = search(loss, 28, 10, BudCache(annealing=60), 0, reports.append)
    assert best == tuple(wanted) and reports[0].best > reports[-1].best == 0


def test_timesteps_of_budcache_bring_latents_closer():
    """Under the same key steps; with the effort of both stages. A mask that computes everything keeps its timesteps."""
    pipe, options = dit_pipeline(), {"call_kwargs": {"class_labels": [3, 7]}}
    mask = schedules.key_steps(pipe, 6, [0, 1, 3], forecast=None)
    mask = replace(mask, provenance={**mask.provenance, "denoiser_calls": 100, "seconds": 5.0})
    before = snapshot(denoiser_of(pipe))
    recipe = budcache_recipe(pipe, mask, num_images=2, **options)
    assert_unchanged(denoiser_of(pipe), before)
    assert np.array_equal(recipe.mask.actions, mask.actions) and recipe.mask.timesteps == recipe.timesteps
    assert recipe.provenance["denoiser_calls"] > 106 and recipe.provenance["seconds"] > 5
    task = Task(pipe, 6, **options)
    full = task.noise.latents(0, 2)

    def error(decision):
        with apply(pipe, decision):
            return (task.noise.latents(0, 2) - full).square().mean().item()

    assert error(recipe) < error(mask)
    everything = budcache_recipe(pipe, schedules.key_steps(pipe, 6, 6), num_images=2, **options)
    assert list(everything.timesteps) == list(task.whole_timesteps)


def test_timesteps_of_budcache_need_a_scheduler_that_takes_them():
    pipe = dit_pipeline()
    pipe.scheduler = PNDMScheduler(skip_prk_steps=True)
    check_refused("PNDMScheduler does not take a timestep", budcache_recipe, pipe, schedules.key_steps(pipe, 6, 3))


def test_budcache_is_better_than_where_it_began_and_keeps_to_the_target():
    pipe, seen = dit_pipeline(), []
    options = {"annealing": 4, "climbing": 1, "num_calibration": 1, "progress": False}
    mask = learn(pipe, 6, 0.7, method="budcache", callback=seen.append, **options)
    facts = mask.provenance
    assert len(facts["steps"]) == 3 and facts["steps"][0] == 0 and facts["macs"] <= 0.7
    assert facts["mean_square"] == seen[-1].best <= seen[0].best and facts["masks_tried"] > 1
    assert mask.is_binary and np.flatnonzero(mask.compute.all(1)).tolist() == facts["steps"]
