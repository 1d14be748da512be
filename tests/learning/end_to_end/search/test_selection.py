"""Selection takes the least harm for what it saves and keeps to budgets; settling changes no plan."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import stepmask
from stepmask import BlockGraph, CostTable, Site, State, StepMask, describe, make_plan, measure_cost
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import EndToEnd
from stepmask.learning.budget import Budget
from stepmask.learning.end_to_end.gradients.probe import Probe
from stepmask.learning.end_to_end.search.selection import Selection
from stepmask.learning.end_to_end.tables import Table, settle
from stepmask.mask import Action
from tiny import ddim_pipeline, dit_pipeline, generator, random_mask, tiny_model

FAMILIES = ("UNet2DModel", "DiTTransformer2DModel")
HOLD_OR_LINEAR = (Action.hold, Action.linear)


def branches(*macs: float) -> Budget:
    """Sites that read each other's sums: no cell makes another dead."""
    graph = BlockGraph.branches([Site(f"b{i}", "mlp") for i in range(len(macs))])
    return Budget(graph, CostTable(graph.names, np.array(macs, float), 1.0))


def hand_made(sizes: np.ndarray, linear: np.ndarray | None = None) -> Probe:
    """Of an all-compute table: (T, B, 2) how far holding and forecasting move one image, all apart from each other."""
    rows, sites, _ = sizes.shape
    projections = np.zeros((rows, sites, len(Action), 1, 1))
    projections[1:, :, HOLD_OR_LINEAR, 0, 0] = sizes[1:]
    first_order = np.zeros((rows, sites, len(Action), 1))
    if linear is not None:
        first_order[1:, :, HOLD_OR_LINEAR, 0] = linear[1:]
    return Probe(square=np.array([1.0]), linear=first_order, projections=projections, size=16)


def first_switch(budget: Budget, probe: Probe, target: float, trust: float = 0.0) -> tuple[int, int, int]:
    seen = []

    def fits(actions: np.ndarray, weights: None) -> bool:
        seen.append(actions.copy())
        return True

    rows, sites = probe.linear.shape[:2]
    full = np.full((rows, sites), Action.compute)
    budget.fits = fits
    Selection(budget, Table(full), probe, EndToEnd(), trust).shrink(target)
    ((row, site),) = np.argwhere(seen[0] != Action.compute)
    return int(row), int(site), int(seen[0][row, site])


def test_the_least_harm_goes_first():
    sizes = np.random.default_rng(0).uniform(0.3, 1.0, (6, 3, 2))
    sizes[3, 1, 1] = 0.2
    assert first_switch(branches(1, 1, 1), hand_made(sizes), 0.9) == (3, 1, Action.linear)
    sizes[4, 2, 0] = 0.1
    assert first_switch(branches(1, 1, 1), hand_made(sizes), 0.9) == (4, 2, Action.hold)


def test_harm_is_counted_per_saving():
    sizes = np.full((6, 3, 2), 0.5)
    sizes[2, 0] = 0.3  # least harm, but the site is cheap
    sizes[4, 2] = 0.4
    assert first_switch(branches(1, 1, 8), hand_made(sizes), 0.7) == (4, 2, Action.hold)
    # only as much is needed as any cell saves: then the least harm counts
    assert first_switch(branches(1, 1, 8), hand_made(sizes), 1 - 1e-4) == (2, 0, Action.hold)


def test_a_measured_decrease_counts_as_far_as_it_is_trusted():
    sizes, measured = np.full((6, 2, 2), 0.4), np.zeros((6, 2, 2))
    sizes[2, 0] = 0.35
    measured[4, 1, 0] = -0.1
    probe = hand_made(sizes, measured)
    assert first_switch(branches(1, 1), probe, 0.9, trust=0.0) == (2, 0, Action.hold)
    assert first_switch(branches(1, 1), probe, 0.9, trust=0.9) == (4, 1, Action.hold)


def case(family: str, seed: int, share: float = 0.7, rows: int = 8):
    """Budget, a settled random table and a random probe of it, as the chain would leave it."""
    model = tiny_model(family)
    budget, random = Budget(describe(model), measure_cost(model)), np.random.default_rng(seed)
    mask = settle(random_mask(model, DDIMScheduler(), rows, seed, share, True, forecasts=0.5), budget.graph)
    actions, states = mask.actions, make_plan(mask, budget.graph).states
    projections = random.normal(size=(*actions.shape, len(Action), 2, 2)) * random.lognormal(
        size=(*actions.shape, 3, 1, 1)
    )
    linear = random.normal(size=(*actions.shape, len(Action), 2))
    np.put_along_axis(projections, actions[:, :, None, None, None].astype(int), 0.0, axis=2)
    np.put_along_axis(linear, actions[:, :, None, None].astype(int), 0.0, axis=2)
    without = (states == State.dead) | (np.arange(rows)[:, None] == 0)
    projections[without], linear[without] = 0.0, 0.0
    return budget, actions, Probe(np.array([3.0, 5.0]), linear, projections, 100)


@pytest.mark.parametrize("trust", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_budgets_are_kept(family, seed, trust):
    budget, actions, probe = case(family, seed)
    before = budget.cost_of(actions)
    selection = Selection(budget, Table(actions), probe, EndToEnd(), trust)
    low, high = 0.88 * before, 0.95 * before
    shrunk = budget.cost_of(selection.shrink(low))
    assert shrunk <= low or not savings(budget, selection)
    grown = budget.cost_of(selection.grow(high))
    assert grown <= max(shrunk, high)
    mended = budget.cost_of(selection.mend())
    assert mended <= grown
    assert (selection.actions[0] == Action.compute).all() and np.isfinite(selection.predicted)


def savings(budget: Budget, selection: Selection) -> list[tuple[int, int, int]]:
    """Open switches away from computing that would save something."""
    (live,) = budget.live(selection.actions)
    away = np.argwhere(selection._open & (selection.actions == Action.compute)[..., None])
    found = [tuple(int(i) for i in switch) for switch in away if switch[2] != Action.compute]
    return [(row, site, action) for row, site, action in found if live.change(row, site, Action(action)) < -1e-9]


def test_targets_are_met_with_no_more_than_is_needed():
    budget, full = branches(1, 1, 1), np.full((10, 3), Action.compute)
    sizes = np.random.default_rng(0).uniform(0.1, 1.0, (10, 3, 2))
    cell = 1 / 40
    for wanted in (1, 2, 4):
        selection = Selection(budget, Table(full), hand_made(sizes), EndToEnd(), 0.0)
        cost = budget.cost_of(selection.shrink(1 - wanted * cell))
        assert cost == pytest.approx(1 - wanted * cell) and (selection.actions != Action.compute).sum() == wanted


def test_cells_that_help_are_computed_again_as_far_as_the_target_goes():
    budget, actions = branches(1, 1, 1), np.full((10, 3), Action.compute)
    actions[3, 0] = actions[6, 1] = Action.hold
    projections, linear = np.zeros((10, 3, len(Action), 1, 1)), np.zeros((10, 3, len(Action), 1))
    projections[3, 0, Action.compute] = projections[6, 1, Action.compute] = 1e-3
    linear[3, 0, Action.compute], linear[6, 1, Action.compute] = -0.1, -0.4
    probe, cost, cell = Probe(np.array([1.0]), linear, projections, 16), budget.cost_of(actions), 1 / 40
    for target, computed in [(cost + 0.5 * cell, []), (cost + 1.5 * cell, [(6, 1)]), (1.0, [(3, 0), (6, 1)])]:
        selection = Selection(budget, Table(actions), probe, EndToEnd())
        grown = selection.grow(target)
        assert [tuple(int(i) for i in index) for index in np.argwhere(grown != actions)] == computed
        assert budget.cost_of(grown) <= target
        assert (selection.predicted > 0) == bool(computed)


@pytest.mark.parametrize("family", FAMILIES)
def test_shrinking_stops_where_nothing_is_open(family):
    budget, actions, probe = case(family, 0)
    selection = Selection(budget, Table(actions), probe, EndToEnd())
    assert 0 < budget.cost_of(selection.shrink(0.0)) < budget.cost_of(actions)
    assert not savings(budget, selection)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_allowed_actions_are_taken(family):
    budget, actions, probe = case(family, 1)
    actions = np.where(actions == Action.linear, Action.hold, actions)
    selection = Selection(budget, Table(actions), probe, EndToEnd(forecast=False))
    selection.shrink(0.5)
    selection.grow(0.7)
    selection.mend()
    assert not (selection.actions == Action.linear).any() and (selection.actions != actions).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_fit_is_not_taken(family):
    passed = []
    for seed in range(6):
        budget, actions, probe = case(family, seed)
        most = int((actions == Action.linear).sum())

        def fits(table: np.ndarray, weights: None = None, most: int = most) -> bool:
            return (table == Action.linear).sum() <= most

        free = Selection(budget, Table(actions), probe, EndToEnd())
        limited = Budget(budget.graph, budget.costs)
        limited.fits = fits
        bound = Selection(limited, Table(actions), probe, EndToEnd())
        for selection in (free, bound):
            selection.shrink(0.6 * budget.cost_of(actions))
            selection.grow(0.8 * budget.cost_of(actions))
            selection.mend()
        assert fits(bound.actions)
        passed.append(fits(free.actions))
    assert not all(passed), "free, some take more"


# --- settling


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_settling_keeps_plans_and_images(make, seed):
    pipe = make()
    graph = describe(pipe)
    mask = random_mask(denoiser_of(pipe), pipe.scheduler, 6, seed, 0.5, forecasts=0.5)
    settled = settle(mask, graph)
    before, after = make_plan(mask, graph), make_plan(settled, graph)
    assert np.array_equal(before.states, after.states) and np.array_equal(before.keep, after.keep)
    assert np.array_equal(settled.compute[1:], after.called[1:]) and settled.compute[0].all()
    assert settle(settled, graph) == settled
    if make is ddim_pipeline:
        assert (settled.actions != mask.actions).any()
    assert (settled.scheduler, settled.graph, settled.timesteps) == (mask.scheduler, graph.fingerprint, mask.timesteps)
    images = []
    for each in (mask, settled):
        call = {"class_labels": [1, 2]} if make is dit_pipeline else {"batch_size": 2}
        with stepmask.apply(pipe, each):
            images.append(pipe(generator=generator(), num_inference_steps=6, output_type="pt", **call).images)
    assert torch.equal(*images)


def test_settling_names_all_sites():
    model = tiny_model("DiTTransformer2DModel")
    graph = describe(model)
    two = graph.innermost.names[1:3]
    mask = StepMask(compute=[[1, 1], [0, 1], [1, 0]], sites=two, timesteps=[3, 2, 1])
    settled = settle(mask, graph)
    assert settled.sites == graph.names
    given = [graph.names.index(name) for name in two]
    assert np.array_equal(settled.compute[:, given], mask.compute)
    assert np.delete(settled.compute, given, axis=1).all()


def test_what_contains_others_rests_and_computes_with_all_of_them():
    """One switch, as much saved as all its sites cost; computing again, they compute too."""
    names = ("blocks.0.attn", "blocks.0.ff", "blocks.0", "blocks.1.attn", "blocks.1.ff", "blocks.1", "blocks")
    kinds = ("attention", "mlp", "block", "attention", "mlp", "block", "stack")
    readers = ((1, 2), (2,), (3, 4, 5), (4, 5), (5,), (6,), (-1,))
    graph = BlockGraph(tuple(map(Site, names, kinds)), readers, (True,) * 7)
    budget = Budget(graph, CostTable(names, np.array([4.0, 4, 1, 4, 4, 1, 0]), 2.0))
    sizes = np.full((4, 7, 2), 0.5)
    sizes[2, 6] = 0.4  # little more than what one branch does, for nine times as much
    selection = Selection(budget, Table(np.full((4, 7), Action.compute)), hand_made(sizes), EndToEnd(), 0.0)
    actions = selection.shrink(0.8)
    assert np.argwhere(actions != Action.compute).tolist() == [[2, 6]]
    assert budget.cost_of(actions) == pytest.approx((3 * 20 + 2) / 80)
    rest = np.full((4, 7), Action.compute)
    rest[2] = Action.hold
    linear = np.zeros((4, 7, len(Action), 1))
    projections = np.zeros((4, 7, len(Action), 1, 1))
    linear[2, 6, Action.compute], projections[2, 6, Action.compute] = -0.5, 1e-3
    probe = Probe(np.array([1.0]), linear, projections, 16)
    assert (Selection(budget, Table(rest), probe, EndToEnd()).grow(1.001) == Action.compute).all()


def test_several_limits_are_kept_together():
    """One site has the MACs, the other takes the time."""
    one = branches(8, 1)
    costs = replace(one.costs, latency_ms=np.array([1.0, 8.0]), always_latency_ms=1.0)
    sizes = np.random.default_rng(0).uniform(0.3, 1.0, (10, 2, 2))

    def shrunk(**limits: float) -> tuple[np.ndarray, list[float]]:
        budget = Budget(one.graph, costs, limits)
        selection = Selection(budget, Table(np.full((10, 2), Action.compute)), hand_made(sizes), EndToEnd(), 0.0)
        actions = selection.shrink(budget.target)
        return actions, [Budget(one.graph, costs, {unit: 1.0}).cost_of(actions) for unit in ("macs", "latency")]

    macs, latency, both = shrunk(macs=0.8), shrunk(latency=0.75), shrunk(macs=0.8, latency=0.75)
    assert macs[1][0] <= 0.8 and macs[1][1] > 0.75 and latency[1][1] <= 0.75 and latency[1][0] > 0.8
    assert 0.8 - 0.09 < both[1][0] <= 0.8 and 0.75 - 0.09 < both[1][1] <= 0.75, "to one cell"
    assert np.array_equal(shrunk(macs=0.8, latency=1.0)[0], macs[0]), "a limit that is far says nothing"


def test_cells_of_sites_with_weights_stay_as_they_are():
    budget, sizes = branches(1, 1, 1), np.full((6, 3, 2), 0.1)
    actions = np.full((6, 3), Action.compute)
    actions[3, 1] = Action.linear
    weights = {budget.graph.names[1]: np.ones((6, 2, 4))}
    selection = Selection(budget, Table(actions, weights=weights), hand_made(sizes), EndToEnd(), 0.0)
    changed = selection.shrink(0.0)
    assert np.array_equal(changed[:, 1], actions[:, 1]) and (changed[:, [0, 2]] != Action.compute).sum() >= 4
