"""What a summary tells of a run: cells by state, MACs, and the largest cache."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from loops import FORECASTS, STEPS, Setup, bare_loop, condition_of, full, noise, twin_of
from torch.utils._pytree import tree_leaves

import stepmask
from stepmask import describe, make_plan, measure_cost
from stepmask.liveness import State
from tiny import count_computes, module_of, modules_of, random_mask, tiny_model


def peak_bytes(pipe, plan, batch: int) -> int:
    """Simulate the cache of one run with the real sizes of the sites' values."""
    sizes: dict[str, int] = {}

    def hook(name):
        def measure(module, args, output):
            tensors = set(tree_leaves(output))
            sizes[name] = sum(tensor.numel() * tensor.element_size() for tensor in tensors)

        return measure

    hooks = [module_of(pipe.unet, name).register_forward_hook(hook(name)) for name in plan.sites]
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
        STEPS, int((plan.states == State.compute).sum()), int((plan.states == State.forecast).sum()),
        int((plan.states == State.reuse).sum()), int((plan.states == State.dead).sum()),
    )  # fmt: skip
    cells = summary.computes + summary.forecasts + summary.reuses + summary.dead
    assert cells == STEPS * len(graph) and summary.dead > 0 and (summary.forecasts > 0) == (forecasts > 0)
    assert summary.macs_fraction == cost.fraction(plan) < cost.fraction(setup.mask) < 1
    assert summary.macs_per_image == pytest.approx(cost.fraction(plan) * cost.step_macs * STEPS)
    assert summary.peak_cache_bytes == peak_bytes(twin_of(setup.name), plan, batch) > 0
    assert run.summary() == summary, "after removal it still tells of the last run"
    assert summary.to_dict()["rows"] == STEPS and summary.to_dict()["forecasts"] == summary.forecasts
    assert f"{STEPS} steps" in str(summary) and "dead" in str(summary) and "MiB" in str(summary)
    assert f" {summary.forecasts} forecast," in str(summary)


def test_summary_of_a_run_that_ended_early_or_began_anew():
    """It tells what ran: the rows that were reached, and all cells of a row at which values no longer fitted."""
    model, scheduler = tiny_model("UNet2DModel"), DDIMScheduler()
    mask = random_mask(model, scheduler, STEPS, only_blocks=True)
    modules = modules_of(describe(model))
    with count_computes(model, modules) as log, stepmask.apply(model, mask, scheduler=scheduler) as run:
        scheduler.set_timesteps(STEPS)
        for batch, rows in ((2, scheduler.timesteps[:2]), (1, scheduler.timesteps[2:4])):
            for t in rows:
                with torch.no_grad():
                    model(noise(model, batch, 0)[0], t)
        summary, cost = run.summary(), measure_cost(model)
    shapes_alone = (run.ran.states[[0, 2]] == State.dead).sum()  # never read: they run once, to learn their shape
    lists = [site.kind == "stack" for site in describe(model).sites]
    computes = summary.computes - (run.ran.states[:, lists] == State.compute).sum()
    assert summary.rows == 4 and len(log) - shapes_alone <= computes <= len(log)
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


def test_summary_says_which_steps_rest_as_a_whole():
    model, scheduler = tiny_model("DiTTransformer2DModel"), DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    mask = stepmask.schedules.fora(describe(model), scheduler.timesteps.tolist(), 2, level="stack")
    with stepmask.apply(model, mask, scheduler=scheduler) as run:
        assert f"{STEPS} steps, {STEPS // 2} of which rest as a whole;" in str(run.summary())
    assert f", {STEPS // 2} steps rest as a whole," in repr(mask)


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
