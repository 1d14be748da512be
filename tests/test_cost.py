"""CostTable: fractions and units."""

import numpy as np
import pytest

import stepmask
from refusal import check_refused
from stepmask import BlockGraph, CostTable, Site, StepMask, describe, make_plan, measure_cost
from stepmask.inspection.registry import denoiser_of
from tiny import ddim_pipeline, dit_pipeline, generator, random_mask

SITES = ("a", "b", "c")
TABLE = CostTable(
    SITES, macs=np.array([1.0, 2.0, 5.0]), always_macs=2.0, latency_ms=np.array([4.0, 1.0, 1.0]), always_latency_ms=2.0
)


def mask(*rows: str, sites=SITES) -> StepMask:
    return StepMask(compute=[[int(c) for c in row] for row in rows], sites=sites, timesteps=range(len(rows)))


def test_shares_add_up_to_one():
    assert (TABLE.step_macs, TABLE.coverage) == (10, 0.8)
    for unit in ("macs", "latency"):
        sites, always = TABLE.shares(unit)
        assert sites.sum() + always == pytest.approx(1)
    assert TABLE.shares("latency")[0].tolist() == [0.5, 0.125, 0.125]


def test_fraction_weighs_cells_by_cost():
    assert TABLE.fraction(mask("111", "111")) == 1
    assert TABLE.fraction(mask("111", "000")) == pytest.approx(0.5 * 0.8 + 0.2)
    assert TABLE.fraction(mask("111", "001", "010", "000")) == pytest.approx((1 / 4 + 2 * 2 / 4 + 5 * 2 / 4 + 2) / 10)
    assert TABLE.fraction(mask("111", "100"), "latency") == pytest.approx((4 + 0.5 + 0.5 + 2) / 8)


def test_columns_are_matched_by_name_and_unnamed_sites_always_run():
    assert TABLE.fraction(mask("11", "01", sites=("c", "a"))) == pytest.approx((1 + 2 + 2.5 + 2) / 10)


def test_a_plan_costs_what_it_computes_and_a_mask_what_it_says():
    graph = BlockGraph.chain([Site(name, "resnet") for name in SITES])
    held = mask("111", "110", "110")
    assert TABLE.fraction(held) == pytest.approx((1 + 2 + 5 / 3 + 2) / 10)
    assert TABLE.fraction(make_plan(held, graph)) == pytest.approx((1 / 3 + 2 / 3 + 5 / 3 + 2) / 10)
    assert TABLE.total_macs(make_plan(held, graph)) == pytest.approx(1 + 2 + 5 + 6)


# --- cache


def run(pipe, mask, count: int, **options) -> int:
    """Peak of the cache in a run of `count` images."""
    call = {"class_labels": [1] * count} if hasattr(pipe, "transformer") else {"batch_size": count}
    with stepmask.apply(pipe, mask) as applied:
        pipe(generator=generator(), num_inference_steps=mask.num_rows, output_type="pt", **call, **options)
        return applied.summary().peak_cache_bytes


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_the_peak_of_the_cache_is_the_executors(make):
    pipe, peaks = make(), set()
    cost = measure_cost(pipe)
    for seed in range(6):
        mask = random_mask(denoiser_of(pipe), pipe.scheduler, 7, seed, 0.15 + 0.12 * seed, forecasts=0.5)
        expected = cost.peak_cache_bytes(make_plan(mask, describe(pipe)))
        assert run(pipe, mask, 3) == 3 * expected
        peaks.add(expected)
    assert len(peaks) > 2
    assert (
        cost.peak_cache_bytes(make_plan(random_mask(denoiser_of(pipe), pipe.scheduler, 7, 0, 1.0), describe(pipe))) == 0
    )


def test_the_peak_of_the_cache_without_guidance():
    pipe, options = dit_pipeline(), {"guidance_scale": 1.0}
    mask = random_mask(pipe.transformer, pipe.scheduler, 6, forecasts=0.5)
    plan = make_plan(mask, describe(pipe))
    peak = measure_cost(pipe, call_kwargs=options).peak_cache_bytes(plan)
    assert run(pipe, mask, 2, **options) == 2 * peak
    assert measure_cost(pipe).peak_cache_bytes(plan) == 2 * peak


# --- the other convention


def test_convolutions_and_linear_layers_alone():
    table = CostTable(SITES, TABLE.macs, 2.0, product_macs=np.array([0.5, 0.0, 2.0]), always_product_macs=1.0)
    lean = table.conv_linear()
    assert lean.macs.tolist() == [0.5, 2, 3] and (lean.always_macs, lean.step_macs) == (1, 6.5)
    assert lean.conv_linear().step_macs == lean.step_macs and table.step_macs == 10
    assert lean.fraction(mask("111", "000")) == pytest.approx((5.5 / 2 + 1) / 6.5)


def test_what_is_not_known_is_refused():
    check_refused(r"no site 'x'.*same model", TABLE.fraction, mask("11", sites=("x", "a")))
    check_refused("latency=True", CostTable(SITES, TABLE.macs, 2.0).fraction, mask("111"), "latency")
    plan = make_plan(mask("111"), BlockGraph.chain([Site(name, "resnet") for name in SITES]))
    check_refused(r"size of values: use measure_cost", TABLE.peak_cache_bytes, plan)
    check_refused(r"products of attention: use measure_cost", TABLE.conv_linear)
