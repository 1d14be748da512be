"""Elimination: the worked examples, and properties against a slow simulator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import POISON, Symbols, run_plan, run_table
from stepmask import BlockGraph, Site, State, StepMask, StepMaskError, make_plan, rectify_paper
from stepmask.errors import MaskMismatchError
from stepmask.graph import OUT
from stepmask.liveness import Elimination, full_table, rows_of, table_of


def sites(count: int, kind: str = "resnet") -> list[Site]:
    return [Site(f"b{i}", kind) for i in range(count)]


def mask_of(*rows: str, names: tuple[str, ...] | None = None) -> StepMask:
    table = [[int(cell) for cell in row] for row in rows]
    names = names or tuple(f"b{i}" for i in range(len(rows[0])))
    return StepMask(compute=table, sites=names, timesteps=range(len(rows), 0, -1))


def words(table: np.ndarray) -> list[str]:
    return ["".join(str(int(cell)) for cell in row) for row in table]


CHAIN, BRANCHES = BlockGraph.chain(sites(2)), BlockGraph.branches(sites(2))
# e1 -> e2 -> mid -> d, and d also reads e1
UNET = BlockGraph(tuple(sites(4)), ((1, 3), (2,), (3,), (OUT,)), (True,) * 4)

# mask, graph, left by Eq. 12, whether Eq. 12 keeps the output, left by the exact rule
EXAMPLES = {
    "chain, reuse between": (("11", "10", "11"), CHAIN, ["11", "00", "11"], True, ["11", "00", "11"]),
    "branches": (("11", "10", "11"), BRANCHES, ["11", "00", "11"], False, ["11", "10", "11"]),
    "U-Net": (("1111", "1001", "1111"), UNET, ["1111", "0001", "1111"], False, ["1111", "1001", "1111"]),
    "chain, long hold": (("11", "10", "10", "10", "11"), CHAIN, 5, True, ["11", "00", "00", "00", "11"]),
    "chain, hold twice": (("11", "10", "00", "11"), CHAIN, 5, True, ["11", "00", "00", "11"]),
    "chain, last step": (("11", "10"), CHAIN, ["11", "10"], True, ["11", "00"]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples_of_exact_elimination(name):
    rows, graph, _, _, exact = EXAMPLES[name]
    plan = make_plan(mask_of(*rows), graph)
    assert words(plan.compute) == exact
    symbols = Symbols(graph)
    assert run_plan(symbols, plan) == run_table(symbols, mask_of(*rows).compute)


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples_of_equation_12(name):
    rows, graph, paper, keeps_output, _ = EXAMPLES[name]
    mask = mask_of(*rows)
    rectified = rectify_paper(mask)
    if isinstance(paper, int):
        assert rectified.compute.sum() == paper
    else:
        assert words(rectified.compute) == paper
    symbols = Symbols(graph)
    assert (run_table(symbols, rectified.compute) == run_table(symbols, mask.compute)) == keeps_output
    assert words(mask.compute) == list(rows), "the given mask must stay as it is"
    assert rectified.provenance["rectified"] == "paper, Eq. 12"


def test_equation_12_sweeps_from_the_last_step_and_takes_its_own_zeros_for_reuse():
    rectified = rectify_paper(mask_of("11", "10", "10", "10", "11"))
    assert words(rectified.compute) == ["11", "00", "10", "00", "11"]


def test_equation_12_passes_over_samplers():
    graph = BlockGraph.chain([Site("b0", "resnet"), Site("b1", "sampler"), Site("b2", "resnet")])
    mask = mask_of("111", "110", "111")
    assert words(rectify_paper(mask).compute) == ["111", "000", "111"]
    assert words(rectify_paper(mask, graph).compute) == ["111", "010", "111"]


def test_cost_is_not_monotone_in_the_mask():
    chain = BlockGraph.chain(sites(3))
    with_cell, without = mask_of("111", "110", "111", "011"), mask_of("111", "110", "101", "011")
    assert (with_cell.compute.sum(), without.compute.sum()) == (11 - 1, 10 - 1)
    assert make_plan(with_cell, chain).compute.sum() == 8
    assert make_plan(without, chain).compute.sum() == 9


def test_a_sampler_above_held_blocks_is_not_run_again():
    graph = BlockGraph(
        (Site("mid", "resnet"), Site("up", "sampler"), Site("last", "resnet")),
        ((1,), (2,), (OUT,)),
        (True, False, True),
    )
    mask = mask_of("111", "011", "011", "111", names=("mid", "up", "last"))
    assert words(make_plan(mask, graph).compute) == ["111", "001", "001", "111"]
    assert words(make_plan(mask, graph, skip_unchanged=False).compute) == ["111", "011", "011", "111"]
    plan = make_plan(mask, graph)
    # the sampler's value is what has to be kept, not the one below it
    assert words(plan.store) == ["010", "000", "000", "000"]
    assert words(plan.free) == ["000", "000", "010", "000"]
    assert plan.states[1].tolist() == [State.dead, State.reuse, State.compute]


def test_without_elimination_the_plan_is_the_mask():
    mask = mask_of("11", "10", "00", "11")
    plan = make_plan(mask, CHAIN, eliminate_dead=False)
    assert np.array_equal(plan.compute, mask.compute)
    assert not (plan.states == State.dead).any()


def test_sites_that_the_mask_does_not_name_compute():
    mask = StepMask(compute=[[1], [0]], sites=["b1"], timesteps=[2, 1])
    assert words(full_table(mask, CHAIN)) == ["11", "10"]
    assert words(make_plan(mask, CHAIN, eliminate_dead=False).compute) == ["11", "10"]
    assert words(make_plan(mask, CHAIN).compute) == ["11", "00"]


def test_columns_are_matched_by_name_not_by_place():
    mask = StepMask(compute=[[1, 1], [1, 0]], sites=["b1", "b0"], timesteps=[2, 1])
    assert words(full_table(mask, CHAIN)) == ["11", "01"]


def test_a_plan_is_read_only_and_says_what_it_is():
    plan = make_plan(mask_of("11", "10", "11"), CHAIN)
    for array in (plan.states, plan.store, plan.free):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0
    assert repr(plan) == "Plan(3 steps x 2 sites: {'compute': 4, 'reuse': 1, 'dead': 1})"
    assert (plan.num_rows, plan.sites) == (3, ("b0", "b1"))


def test_a_late_start_computes_its_first_row():
    plan = make_plan(mask_of("11", "10", "00", "11"), CHAIN)
    assert plan.from_row(0) is plan
    late = plan.from_row(2)
    assert words(late.compute) == ["11", "11"] and late.mask.timesteps == (2, 1)


def test_bad_input_is_refused():
    with pytest.raises(StepMaskError, match=r"needs a BlockGraph, got str: use stepmask.describe"):
        make_plan(mask_of("11"), "graph")
    with pytest.raises(MaskMismatchError, match="'x'"):
        make_plan(mask_of("1", names=("x",)), CHAIN)
    with pytest.raises(StepMaskError, match="must come after"):
        BlockGraph(tuple(sites(2)), ((OUT,), (0,)), (True, True))
    with pytest.raises(StepMaskError, match="for each of its sites"):
        BlockGraph(tuple(sites(2)), ((OUT,),), (True, True))


def test_fingerprint_is_of_the_structure():
    again = BlockGraph.chain(sites(2))
    others = [
        BRANCHES,
        BlockGraph.chain(sites(3)),
        BlockGraph.chain(sites(2, "attention")),
        BlockGraph(CHAIN.sites, CHAIN.all_readers, (True, False)),
    ]
    assert again.fingerprint == CHAIN.fingerprint
    assert len({graph.fingerprint for graph in [CHAIN, *others]}) == 5


def test_writers_are_the_inverse_of_readers():
    assert [UNET.writers(i) for i in range(4)] == [(), (0,), (1,), (0, 2)]
    assert UNET.readers(0) == (1, 3) and UNET.names == ("b0", "b1", "b2", "b3") and len(UNET) == 4


# --- properties


@st.composite
def graphs(draw) -> BlockGraph:
    count = draw(st.integers(1, 6))
    readers = []
    for site in range(count):
        later = st.sets(st.sampled_from([OUT, *range(site + 1, count)]))
        readers.append(tuple(sorted(draw(later))))
    reads_step = tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    return BlockGraph(tuple(sites(count)), tuple(readers), reads_step)


@st.composite
def cases(draw) -> tuple[BlockGraph, StepMask]:
    graph = draw(graphs())
    rows = draw(st.integers(1, 6))
    row = st.integers(0, 2 ** len(graph) - 1)
    table = table_of([2 ** len(graph) - 1, *draw(st.lists(row, min_size=rows - 1, max_size=rows - 1))], len(graph))
    return graph, StepMask(compute=table, sites=graph.names, timesteps=range(rows))


@given(case=cases())
def test_elimination_never_changes_the_output(case):
    graph, mask = case
    symbols = Symbols(graph)
    wanted = run_table(symbols, mask.compute)
    for options in ({}, {"skip_unchanged": False}, {"eliminate_dead": False}):
        assert run_plan(symbols, make_plan(mask, graph, **options)) == wanted


@given(case=cases())
def test_elimination_never_computes_more(case):
    graph, mask = case
    both, backward = make_plan(mask, graph).compute, make_plan(mask, graph, skip_unchanged=False).compute
    assert not (both & ~backward).any() and not (backward & ~mask.compute).any()


@given(case=cases())
def test_every_surviving_compute_is_needed(case):
    graph, mask = case
    symbols = Symbols(graph)
    plan = make_plan(mask, graph)
    wanted = run_plan(symbols, plan)
    for step, site in np.argwhere(plan.compute).tolist():
        assert run_plan(symbols, plan, [(step, site)]) != wanted, f"cell ({step}, {site}) does not matter"


@given(case=cases())
def test_no_surviving_compute_makes_the_value_it_made_before(case):
    graph, mask = case
    symbols = Symbols(graph)
    plan = make_plan(mask, graph)
    latest: dict[int, int] = {}
    cache: dict[int, object] = {}
    for step in range(plan.num_rows):
        for site in range(len(graph)):
            if plan.compute[step, site]:
                value = symbols.value(site, step, cache)
                assert latest.get(site) != value, f"cell ({step}, {site}) computes what it had"
                cache[site] = latest[site] = value
            else:
                cache.setdefault(site, POISON)  # never computed yet, so nobody may read it


@given(case=cases())
def test_backward_rule_is_the_one_written_down(case):
    """The pseudo-code of the method, transcribed cell by cell."""
    graph, mask = case
    rows, count = mask.compute.shape
    m = mask.compute
    read_now, read_later, runs = (np.zeros((rows, count), bool) for _ in range(3))
    states = np.zeros((rows, count), int)
    for k in reversed(range(rows)):
        for b in reversed(range(count)):
            readers = graph.readers(b)
            read_now[k, b] = OUT in readers or any(runs[k, c] for c in readers if c != OUT)
            read_later[k, b] = k < rows - 1 and not m[k + 1, b] and (read_now[k + 1, b] or read_later[k + 1, b])
            runs[k, b] = m[k, b] and (read_now[k, b] or read_later[k, b])
            reuse = not m[k, b] and read_now[k, b]
            states[k, b] = State.compute if runs[k, b] else State.reuse if reuse else State.dead
    plan = make_plan(mask, graph, skip_unchanged=False)
    assert np.array_equal(plan.states, states)
    assert np.array_equal(plan.store, runs & read_later)


@given(case=cases(), data=st.data())
def test_a_late_start_is_a_run_of_the_suffix(case, data):
    graph, mask = case
    start = data.draw(st.integers(0, mask.num_rows - 1))
    suffix = mask.compute[start:].copy()
    suffix[0] = True
    symbols = Symbols(graph)
    assert run_plan(symbols, make_plan(mask, graph).from_row(start)) == run_table(symbols, suffix)


@given(case=cases())
def test_elimination_of_a_plan_finds_nothing_more(case):
    graph, mask = case
    plan = make_plan(mask, graph)
    rows = rows_of(plan.compute)
    assert list(Elimination(graph).apply(rows).runs) == rows


@given(case=cases())
def test_on_a_chain_equation_12_keeps_the_output_and_never_beats_the_exact_rule(case):
    mask = case[1]
    chain = BlockGraph.chain(sites(len(mask.sites)))
    symbols = Symbols(chain)
    rectified = rectify_paper(mask)
    assert run_table(symbols, rectified.compute) == run_table(symbols, mask.compute)
    assert make_plan(mask, chain).compute.sum() <= rectified.compute.sum() <= mask.compute.sum()


@given(rows=st.integers(1, 5), count=st.integers(1, 70), data=st.data())
def test_rows_as_integers_round_trip(rows, count, data):
    numbers = data.draw(st.lists(st.integers(0, 2**count - 1), min_size=rows, max_size=rows))
    table = table_of(numbers, count)
    assert table.shape == (rows, count) and rows_of(table) == numbers
    assert all(table[0, b] == bool(numbers[0] >> b & 1) for b in range(count))
