"""Budgets: costs are those of real plans, and targets are met from above by no more than one cell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from stepmask import BlockGraph, CostTable, Site, StepMask, TargetError, describe, make_plan, measure_cost
from stepmask.graph import OUT
from stepmask.learning.budget import TOLERANCE, Budget
from stepmask.learning.meet_target import meet_target
from stepmask.liveness import rows_of, table_of
from tiny import tiny_model

FAMILIES = ("UNet2DModel", "DiTTransformer2DModel")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    model = tiny_model(request.param)
    return describe(model), measure_cost(model)


def random_table(graph: BlockGraph, rows: int, seed: int, share: float) -> np.ndarray:
    compute = np.ones((rows, len(graph)), dtype=bool)
    blocks = list(graph.blocks)
    compute[1:, blocks] = np.random.default_rng(seed).random((rows - 1, len(blocks))) < share
    return compute


def plan_of(compute: np.ndarray, graph: BlockGraph):
    return make_plan(StepMask(compute=compute, sites=graph.names, timesteps=range(len(compute))), graph)


WITHOUT_SHRINKING = [Phase.explicit, Phase.generate]


# --- costs


@pytest.mark.parametrize("seed", range(5))
def test_cost_is_that_of_the_plan(model, seed):
    graph, cost = model
    compute = random_table(graph, 7, seed, 0.1 + 0.2 * seed)
    plan = plan_of(compute, graph)
    assert Budget(graph, cost).cost(rows_of(compute)) == pytest.approx(cost.fraction(plan), abs=1e-12)


def test_cost_in_milliseconds():
    graph = describe(tiny_model("DiTTransformer2DModel")).innermost
    times = np.array([1.0, 2, 3, 4, 5, 6])
    cost = CostTable(graph.names, np.ones(6), 1.0, latency_ms=times, always_latency_ms=4.0)
    compute = random_table(graph, 5, 0, 0.5)
    expected = (plan_of(compute, graph).compute.mean(0) @ times + 4) / 25
    assert Budget(graph, cost, {"latency": 0.5}).cost(rows_of(compute)) == pytest.approx(expected)


def test_cost_in_two_units_is_that_of_the_one_nearer_to_its_limit(model):
    graph, cost = model
    times = np.random.default_rng(0).random(len(graph))
    cost = replace(cost, latency_ms=times, always_latency_ms=0.1)
    limits = {"macs": 0.32, "latency": 0.3}
    budget = Budget(graph, cost, limits)
    assert budget.target == 0.3 and budget.cost(rows_of(np.ones((7, len(graph)), bool))) == pytest.approx(1)
    nearer, kept = [], []
    for seed in range(40):
        compute = random_table(graph, 7, seed, 0.3 + 0.01 * seed)
        shares = {unit: cost.fraction(plan_of(compute, graph), unit) for unit in limits}
        relative = {unit: shares[unit] / limits[unit] for unit in limits}
        nearer.append(max(relative, key=relative.get))
        kept.append(all(shares[unit] <= limits[unit] for unit in limits))
        total = budget.cost(rows_of(compute))
        assert total == pytest.approx(0.3 * relative[nearer[-1]], abs=1e-11) and (total <= budget.target) == kept[-1]
    assert set(nearer) == set(limits) and set(kept) == {True, False}


@st.composite
def random_plans(draw):
    """A random graph, rows of a mask, and the cost of its sites."""
    count, rows = draw(st.integers(1, 6)), draw(st.integers(2, 6))
    readers = [tuple(sorted(draw(st.sets(st.sampled_from([OUT, *range(site + 1, count)]))))) for site in range(count)]
    steps = tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    graph = BlockGraph(tuple(Site(f"b{i}", "resnet") for i in range(count)), tuple(readers), steps)
    row = st.integers(0, 2**count - 1)
    mask = [2**count - 1, *draw(st.lists(row, min_size=rows - 1, max_size=rows - 1))]
    macs = np.array(draw(st.lists(st.integers(1, 20), min_size=count, max_size=count)), dtype=float)
    return graph, mask, CostTable(graph.names, macs, 1.0)


# --- targets


def assert_met(budget: Budget, compute: np.ndarray, target: float) -> None:
    """At or under the target; within the tolerance, or else no held cell fits into what is left."""
    rows = rows_of(compute)
    cost = budget.cost(rows)
    assert cost <= target + 1e-12
    assert compute[0].all()
    if cost >= target - TOLERANCE:
        return
    for step in range(1, len(rows)):
        for site in budget.graph.blocks:
            more = compute.copy()
            more[step, site] = True
            assert compute[step, site] or not cost + 1e-9 < budget.cost(rows_of(more)) <= target, (step, site, cost)


@settings(max_examples=25, phases=WITHOUT_SHRINKING)
@given(data=st.data())
def test_a_target_is_met_from_any_mask(model, data):
    graph, cost = model
    budget = Budget(graph, cost)
    rows, seed = data.draw(st.integers(2, 12)), data.draw(st.integers(0, 10**6))
    compute = random_table(graph, rows, seed, data.draw(st.floats(0, 1)))
    benefit = np.random.default_rng(seed + 1).normal(size=compute.shape) * 10.0 ** data.draw(st.integers(-6, 2))
    target = data.draw(st.floats(0.05, 0.99))
    assume(target >= budget.floor(rows))
    met = meet_target(budget, compute, benefit, target)
    assert_met(budget, met, target)
    assert met[:, [i for i in range(len(graph)) if i not in graph.blocks]].all(), "samplers are left alone"


@settings(max_examples=40)
@given(case=random_plans(), target=st.floats(0.05, 1.0), seed=st.integers(0, 10**6))
def test_any_graph_meets_its_target(case, target, seed):
    graph, mask, cost = case
    budget = Budget(graph, cost)
    assume(target >= budget.floor(len(mask)))
    compute = table_of(mask, len(graph))
    met = meet_target(budget, compute, np.random.default_rng(seed).random(compute.shape), target)
    assert budget.cost(rows_of(met)) <= target


def test_meeting_a_target_keeps_what_is_worth_most():
    """Independent sites of equal cost: the result is known."""
    graph = BlockGraph.branches([Site(f"b{i}", "mlp") for i in range(4)])
    budget = Budget(graph, CostTable(graph.names, np.ones(4), 0.0))
    benefit = np.random.default_rng(0).permutation(20).reshape(5, 4) + 1.0
    met = meet_target(budget, np.ones((5, 4), dtype=bool), benefit, (4 + 8) / 20)
    best = np.sort(benefit[1:].flatten())[-8:]
    assert met[0].all() and np.array_equal(np.sort(benefit[1:][met[1:]]), best)


def test_a_full_target_computes_everything(model):
    graph, cost = model
    budget = Budget(graph, cost)
    budget.check_target(1.0, 5)
    budget.check_target(1.0, 1)
    compute = np.ones((5, len(graph)), dtype=bool)
    assert meet_target(budget, compute, np.ones(compute.shape), 1.0).all()


def test_the_floor_is_named_and_can_be_reached(model):
    graph, cost = model
    budget = Budget(graph, cost)
    floor = budget.floor(10)
    first_only = np.ones((10, len(graph)), dtype=bool)
    first_only[1:, list(graph.blocks)] = False
    assert floor == pytest.approx(cost.fraction(plan_of(first_only, graph)))
    with pytest.raises(TargetError, match=rf"target_macs=0\.01 cannot be reached.*first of 10 steps.*{floor:.4f}"):
        budget.check_target(0.01, 10)
    budget.check_target(floor, 10)
    assert_met(budget, meet_target(budget, np.ones_like(first_only), np.ones(first_only.shape), floor), floor)


@pytest.mark.parametrize("target", [0, -0.5, 1.0001, 2, float("nan"), float("inf"), "60%", "0.6"])
def test_targets_that_are_no_share(model, target):
    with pytest.raises(TargetError, match=r"share of the full run in \(0, 1\], such as 0\.6, got"):
        Budget(*model).check_target(target, 10)


def test_cells_are_not_changed_in_place(model):
    graph, cost = model
    compute, benefit = random_table(graph, 6, 1, 0.8), torch.rand(6, len(graph)).numpy()
    before = compute.copy(), benefit.copy()
    meet_target(Budget(graph, cost), compute, benefit, 0.6)
    assert np.array_equal(compute, before[0]) and np.array_equal(benefit, before[1])
