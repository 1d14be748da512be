"""Elimination: the worked examples, and properties against a slow simulator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_cases import BLOCK, BRANCHES, CHAIN, UNET, cases, mask_of, sites, values_of, words
from refusal import check_refused
from simulator import Symbols, run_plan, run_table
from stepmask import BlockGraph, Site, State, StepMask, make_plan
from stepmask.errors import MaskMismatchError
from stepmask.graph import OUT
from stepmask.liveness import Elimination, full_actions, rows_of, table_of
from stepmask.mask import Action


def letters(plan) -> list[str]:
    """As in docs/concepts/elimination.md."""
    return ["".join(".rCf"[state] for state in row) for row in plan.states]


# mask, graph, what elimination leaves
EXAMPLES = {
    "chain, reuse between": (("11", "10", "11"), CHAIN, ["11", "00", "11"]),
    "branches": (("11", "10", "11"), BRANCHES, ["11", "10", "11"]),
    "U-Net": (("1111", "1001", "1111"), UNET, ["1111", "1001", "1111"]),
    "chain, long hold": (("11", "10", "10", "10", "11"), CHAIN, ["11", "00", "00", "00", "11"]),
    "chain, hold twice": (("11", "10", "00", "11"), CHAIN, ["11", "00", "00", "11"]),
    "chain, last step": (("11", "10"), CHAIN, ["11", "00"]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples_of_exact_elimination(name):
    rows, graph, exact = EXAMPLES[name]
    plan = make_plan(mask_of(*rows), graph)
    assert words(plan.compute) == exact
    symbols = Symbols(graph)
    assert run_plan(symbols, plan) == run_table(symbols, mask_of(*rows).actions)


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
    assert words(plan.keep) == ["010", "010", "000", "000"]
    assert plan.states[1].tolist() == [State.dead, State.reuse, State.compute]


def test_a_block_also_runs_for_what_lies_within_it():
    """Nobody reads its value at row 1, but that of its first branch is handed out at row 2."""
    plan = make_plan(mask_of("1111", "1110", "0111", names=BLOCK.names), BLOCK)
    assert letters(plan) == ["CCCC", "C..r", "rCCC"]
    assert words(plan.called) == ["1111", "1010", "0111"]


def test_within_what_rests_nothing_is_called_and_values_stay():
    plan = make_plan(mask_of("1111", "1101", "0111", names=BLOCK.names), BLOCK)
    assert letters(plan) == ["CCCC", "..rC", "rCCC"] and words(plan.called) == words(plan.compute)
    assert words(plan.keep) == ["1010", "1000", "0000"], "the first branch is handed out as it was at row 0"


def test_without_elimination_the_plan_is_the_mask():
    mask = mask_of("11", "10", "00", "11")
    plan = make_plan(mask, CHAIN, eliminate_dead=False)
    assert np.array_equal(plan.compute, mask.compute)
    assert not (plan.states == State.dead).any()


def test_sites_that_the_mask_does_not_name_compute():
    mask = StepMask(compute=[[1], [0]], sites=["b1"], timesteps=[2, 1])
    assert words(full_actions(mask, CHAIN)) == ["11", "10"]
    assert words(make_plan(mask, CHAIN, eliminate_dead=False).compute) == ["11", "10"]
    assert words(make_plan(mask, CHAIN).compute) == ["11", "00"]
    mask = StepMask(compute=[[1, 1], [1, 0]], sites=["b1", "b0"], timesteps=[2, 1])
    assert words(full_actions(mask, CHAIN)) == ["11", "01"], "columns are matched by name, not by place"


def test_a_plan_is_read_only_and_says_what_it_is():
    plan = make_plan(mask_of("11", "10", "11"), CHAIN)
    for array in (plan.states, plan.keep):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0
    assert repr(plan) == "Plan(3 steps x 2 sites: {'compute': 4, 'reuse': 1, 'dead': 1})"
    assert (plan.num_rows, plan.sites) == (3, ("b0", "b1"))
    plan = make_plan(mask_of("11", "11", "l0"), BRANCHES)
    assert repr(plan) == "Plan(3 steps x 2 sites: {'compute': 4, 'forecast': 1, 'reuse': 1, 'dead': 0})"


# mask, graph, plan, values kept after each step
FORECASTS = {
    # the second newest value is kept until the forecast, and no longer
    "a line": (("1", "1", "l", "0"), BlockGraph.chain(sites(1)), ["C", "C", "f", "r"], ["1", "2", "1", "0"]),
    # a forecast at the end keeps a value alive that a hold would leave dead
    "two values": (("1", "1", "1", "l"), BlockGraph.chain(sites(1)), ["C", "C", "C", "f"], ["0", "1", "2", "0"]),
    # with one value yet, a forecast is a hold
    "too early": (("1", "l", "1", "l"), BlockGraph.chain(sites(1)), ["C", "r", "C", "f"], ["1", "1", "2", "0"]),
    # nobody reads the forecast of b0, so nobody needs its two values
    "dead": (("11", "11", "l0", "11"), CHAIN, ["CC", "CC", ".r", "CC"], ["00", "01", "00", "00"]),
    # b0 is read through b1 alone, and by b1's forecast at row 3 not at all
    "chain": (("11", "01", "11", "ll"), CHAIN, ["CC", "rC", "CC", ".f"], ["10", "01", "02", "00"]),
    "branches": (("11", "11", "ll", "ll"), BRANCHES, ["CC", "CC", "ff", "ff"], ["11", "22", "22", "00"]),
    "branches, too early": (("11", "l0", "11", "ll"), BRANCHES, ["CC", "rr", "CC", "ff"], ["11", "11", "22", "00"]),
    # two computes whose values no one reads at their step
    "chain, line": (("11", "10", "10", "l1"), CHAIN, ["CC", "Cr", "Cr", "fC"], ["01", "11", "20", "00"]),
    "chain, no line": (("11", "10", "10", "01"), CHAIN, ["CC", ".r", "Cr", "rC"], ["01", "01", "10", "00"]),
}


ONE = BlockGraph.chain(sites(1))
# mask, graph, how many values a forecast of b0 reads, plan, values kept after each step
SEVERAL = {
    "three": (("1", "1", "1", "l"), ONE, 3, ["C", "C", "C", "f"], ["1", "2", "3", "0"]),
    "three of five": (("1", "1", "1", "1", "l", "0"), ONE, 3, ["C"] * 4 + ["f", "r"], ["0", "1", "2", "3", "1", "0"]),
    "four": (("1", "1", "1", "1", "l", "l"), ONE, 4, ["C"] * 4 + ["f", "f"], ["1", "2", "3", "4", "4", "0"]),
    # with two values yet, a forecast reads those, and the third is let go of where no later one reads it
    "fewer yet": (("1", "1", "l", "1", "l", "1"), ONE, 4, list("CCfCfC"), ["1", "2", "2", "3", "0", "0"]),
    "with a hold between": (("1", "0", "1", "1", "l"), ONE, 3, list("CrCCf"), ["1", "1", "2", "3", "0"]),
    # nobody reads b0 at row 1 but the forecast at row 4, which is the third newest then; a line leaves it dead
    "the third": (
        ("11", "10", "10", "10", "l1"),
        CHAIN,
        3,
        ["CC", "Cr", "Cr", "Cr", "fC"],
        ["01", "11", "21", "30", "00"],
    ),
    "a line": (
        ("11", "10", "10", "10", "l1"),
        CHAIN,
        2,
        ["CC", ".r", "Cr", "Cr", "fC"],
        ["01", "01", "11", "20", "00"],
    ),
    "dead": (("11", "11", "11", "l0", "11"), CHAIN, 4, ["CC", "CC", "CC", ".r", "CC"], ["00", "00", "01", "00", "00"]),
}


@pytest.mark.parametrize(("rows", "graph", "values", "states", "keep"), [
    *((rows, graph, None, *plan) for rows, graph, *plan in FORECASTS.values()), *SEVERAL.values(),
], ids=[*FORECASTS, *SEVERAL])  # fmt: skip
def test_worked_examples_of_forecasts(rows, graph, values, states, keep):
    mask, symbols = mask_of(*rows, values=values and {0: values}), Symbols(graph)
    plan = make_plan(mask, graph)
    assert (letters(plan), words(plan.keep)) == (states, keep)
    assert run_plan(symbols, plan) == run_table(symbols, mask.actions, values_of(mask))


# b0 reads the step, b1 only b0
INDEPENDENT = BlockGraph(tuple(sites(2)), ((1,), (OUT,)), (True, False))


def test_an_unchanged_value_that_a_forecast_reads_is_computed_again():
    """Without the second value the line at the last row would be another one."""
    mask = mask_of("11", "11", "01", "0l")
    assert letters(make_plan(mask, INDEPENDENT)) == ["CC", "CC", "rC", ".f"]
    assert letters(make_plan(mask_of("11", "11", "01", "00"), INDEPENDENT)) == ["CC", "CC", ".r", ".r"]


def test_a_forecast_is_a_new_value_at_every_step():
    graph = BlockGraph(tuple(sites(2)), ((1,), (OUT,)), (True, False))
    mask = mask_of("11", "11", "l1", "l1", "01", "01")
    assert letters(make_plan(mask, graph)) == ["CC", "CC", "fC", "fC", "rC", ".r"]


def test_a_forecast_with_one_value_yet_is_no_new_value():
    assert letters(make_plan(mask_of("11", "l1", "01"), INDEPENDENT)) == ["CC", ".r", ".r"]


def test_what_is_computed_again_for_a_forecast_is_still_the_same_value():
    """b1 computes again at row 1, for the line at row 3; b2 need not."""
    graph = BlockGraph(tuple(sites(3)), ((1,), (2, OUT), (OUT,)), (True, False, False))
    mask = mask_of("111", "011", "111", "0l0")
    assert letters(make_plan(mask, graph)) == ["CCC", "rCr", "CCC", ".fr"]


def test_a_late_start_computes_its_first_row():
    plan = make_plan(mask_of("11", "10", "00", "11"), CHAIN)
    assert plan.from_row(0) is plan
    late = plan.from_row(2)
    assert words(late.compute) == ["11", "11"] and late.mask.timesteps == (2, 1)
    late = make_plan(mask_of("11", "1l", "ll", "1l", "ll"), BRANCHES).from_row(2)
    assert letters(late) == ["CC", "Cr", "fr"], "what came before is not there"


def test_bad_input_is_refused():
    check_refused(r"needs a BlockGraph, got str: use stepmask.describe", make_plan, mask_of("11"), "graph")
    check_refused("'x'", make_plan, mask_of("1", names=("x",)), CHAIN, error=MaskMismatchError)
    check_refused("must come after", BlockGraph, tuple(sites(2)), ((OUT,), (0,)), (True, True))
    check_refused("for each of its sites", BlockGraph, tuple(sites(2)), ((OUT,),), (True, True))


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


@given(case=cases())
def test_elimination_never_changes_the_output(case):
    graph, mask = case
    symbols = Symbols(graph)
    wanted = run_table(symbols, mask.actions, values_of(mask))
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
def test_no_surviving_compute_could_be_held_instead(case):
    """Else it would make the value that it made before, and no forecast would miss it."""
    graph, mask = case
    symbols = Symbols(graph)
    plan = make_plan(mask, graph)
    actions = np.zeros_like(plan.states)
    actions[plan.compute] = Action.compute
    actions[plan.states == State.forecast] = Action.linear
    values = values_of(mask)
    wanted = run_table(symbols, mask.actions, values)
    assert run_table(symbols, actions, values) == wanted
    for step, site in np.argwhere(plan.compute).tolist():
        held = actions.copy()
        held[step, site] = Action.hold
        assert run_table(symbols, held, values) != wanted, f"cell ({step}, {site}) need not run"


@given(case=cases())
def test_backward_rule_is_the_one_written_down(case):
    """The pseudo-code of docs/concepts/elimination.md, transcribed cell by cell."""
    graph, mask = case
    rows, count = mask.compute.shape
    m, values = mask.compute, values_of(mask)
    f = mask.forecast & (m.cumsum(axis=0) >= 2)
    read_now, runs = (np.zeros((rows, count), bool) for _ in range(2))
    read_later = np.zeros((rows, count, 5), bool)  # the newest value, the second newest, ...
    states = np.zeros((rows, count), int)
    for k in reversed(range(rows)):
        for b in reversed(range(count)):
            readers = graph.readers(b)
            read_now[k, b] = OUT in readers or any(runs[k, c] for c in readers if c != OUT)
            for age in range(4):
                if k < rows - 1 and m[k + 1, b]:
                    read_later[k, b, age] = read_later[k + 1, b, age + 1]
                elif k < rows - 1:
                    reads = age == 0 or (f[k + 1, b] and age < values.get(b, 2))
                    read_later[k, b, age] = (reads and read_now[k + 1, b]) or read_later[k + 1, b, age]
            runs[k, b] = m[k, b] and (read_now[k, b] or read_later[k, b, 0])
            instead = State.forecast if f[k, b] else State.reuse
            idle = instead if not m[k, b] and read_now[k, b] else State.dead
            states[k, b] = State.compute if runs[k, b] else idle
    plan = make_plan(mask, graph, skip_unchanged=False)
    assert np.array_equal(plan.states, states)
    known = np.cumsum(runs, axis=0)  # of four values, the first forecasts may find two
    assert np.array_equal(plan.keep, np.minimum(read_later.sum(axis=2), known))


@given(case=cases(), data=st.data())
def test_a_late_start_is_a_run_of_the_suffix(case, data):
    graph, mask = case
    start = data.draw(st.integers(0, mask.num_rows - 1))
    suffix = mask.actions[start:]
    suffix[0] = Action.compute
    symbols = Symbols(graph)
    plan = make_plan(mask, graph).from_row(start)
    assert run_plan(symbols, plan) == run_table(symbols, suffix, values_of(mask))


@given(case=cases())
def test_a_learner_may_ask_with_forecasts_that_find_one_value(case):
    """It changes tables cell by cell, so it does not know which they are."""
    graph, mask = case
    live = Elimination(graph, values_of(mask)).apply(rows_of(mask.compute), rows_of(mask.forecast))
    assert np.array_equal(table_of(live.runs, len(graph)), make_plan(mask, graph).compute)


@given(rows=st.integers(1, 5), count=st.integers(1, 70), data=st.data())
def test_rows_as_integers_round_trip(rows, count, data):
    numbers = data.draw(st.lists(st.integers(0, 2**count - 1), min_size=rows, max_size=rows))
    table = table_of(numbers, count)
    assert table.shape == (rows, count) and rows_of(table) == numbers
    assert all(table[0, b] == bool(numbers[0] >> b & 1) for b in range(count))
