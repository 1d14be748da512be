"""LivePlan agrees with planning anew, whatever switches are made."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmask import BlockGraph, Site, describe
from stepmask.graph import OUT
from stepmask.learning.live_plan import LivePlan
from stepmask.liveness import Elimination, rows_of, table_of
from stepmask.mask import Action
from tiny import tiny_model


def runs_of(graph: BlockGraph, actions: np.ndarray) -> np.ndarray:
    rows, forecasts = rows_of(actions == Action.compute), rows_of(actions == Action.linear)
    return table_of(Elimination(graph).apply(rows, forecasts, skip_unchanged=False).runs, len(graph))


def called(graph: BlockGraph, runs: np.ndarray) -> np.ndarray:
    """What runs, and what contains it."""
    found = runs.copy()
    for outer, inside in graph.within.items():
        found[:, outer] |= runs[:, [i for i in range(len(graph)) if inside >> i & 1]].any(axis=1)
    return found


def live_plan(graph: BlockGraph, actions: np.ndarray, share: np.ndarray) -> LivePlan:
    rows, forecasts = rows_of(actions == Action.compute), rows_of(actions == Action.linear)
    return LivePlan(Elimination(graph), rows, forecasts, share)


def assert_follows(graph: BlockGraph, actions: np.ndarray, share: np.ndarray, switches) -> None:
    live = live_plan(graph, actions, share)
    for step, site, action in switches:
        before = runs_of(graph, actions)
        switched = actions.copy()
        switched[step, site] = action
        if action == Action.compute:  # with all that lies within
            inside = graph.within.get(site, 0)
            switched[step, [i for i in range(len(graph)) if inside >> i & 1]] = action
        after = runs_of(graph, switched)
        expected = float(((called(graph, after).astype(int) - called(graph, before)) @ share).sum() / len(actions))
        assert live.change(step, site, Action(action)) == pytest.approx(expected, abs=1e-12)
        assert np.array_equal(table_of(live.runs, len(graph)), before), "asking changes nothing"
        rows = live.switch(step, site, Action(action))
        actions = switched
        assert np.array_equal(table_of(live.runs, len(graph)), after)
        assert set(np.flatnonzero((before != after).any(1)).tolist()) <= set(rows)
        assert live.rows == rows_of(actions == Action.compute)
        forecasts = zip(live.forecasts, live.rows, strict=True)
        assert [forecast & ~row for forecast, row in forecasts] == rows_of(actions == Action.linear)


@st.composite
def cases(draw):
    """A random graph, a table, the cost of its sites, and switches."""
    count, rows = draw(st.integers(1, 6)), draw(st.integers(2, 7))
    readers = [tuple(sorted(draw(st.sets(st.sampled_from([OUT, *range(site + 1, count)]))))) for site in range(count)]
    steps = tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    graph = BlockGraph(tuple(Site(f"b{i}", "resnet") for i in range(count)), tuple(readers), steps)
    cell = st.integers(0, 2)
    actions = np.array(draw(st.lists(st.lists(cell, min_size=count, max_size=count), min_size=rows, max_size=rows)))
    actions[0] = Action.compute
    share = np.array(draw(st.lists(st.integers(1, 20), min_size=count, max_size=count)), dtype=float)
    switch = st.tuples(st.integers(1, rows - 1), st.integers(0, count - 1), cell)
    return graph, actions, share, draw(st.lists(switch, min_size=1, max_size=6))


@given(case=cases())
def test_it_follows_every_switch(case):
    assert_follows(*case)


@pytest.mark.parametrize("name", ["UNet2DModel", "DiTTransformer2DModel"])
def test_it_follows_long_walks_on_models(name):
    graph, random = describe(tiny_model(name)), np.random.default_rng(0)
    actions = random.integers(0, 3, (12, len(graph)))
    actions[0] = Action.compute
    switches = np.stack([random.integers(*ends, 60) for ends in ((1, 12), (0, len(graph)), (0, 3))], axis=1).tolist()
    assert_follows(graph, actions, random.random(len(graph)), switches)
