"""Eq. 12 of the paper as printed: where it keeps the output, where it does not, and what it leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import Symbols, run_table
from stepmask import BlockGraph, Site, StepMask, make_plan
from stepmask.graph import OUT
from stepmask_lab.reproduce.rectification import rectify_paper


def sites(count: int, kind: str = "resnet") -> list[Site]:
    return [Site(f"b{i}", kind) for i in range(count)]


def mask_of(*rows: str) -> StepMask:
    compute = np.array([[cell == "1" for cell in row] for row in rows])
    names = [f"b{i}" for i in range(compute.shape[1])]
    return StepMask(compute=compute, sites=names, timesteps=range(len(rows), 0, -1))


def words(table: np.ndarray) -> list[str]:
    return ["".join(str(int(cell)) for cell in row) for row in table]


CHAIN, BRANCHES = BlockGraph.chain(sites(2)), BlockGraph.branches(sites(2))
# e1 -> e2 -> mid -> d, and d also reads e1
UNET = BlockGraph(tuple(sites(4)), ((1, 3), (2,), (3,), (OUT,)), (True,) * 4)

# mask, graph, left by Eq. 12, whether that keeps the output
EXAMPLES = {
    "chain, reuse between": (("11", "10", "11"), CHAIN, ["11", "00", "11"], True),
    "branches": (("11", "10", "11"), BRANCHES, ["11", "00", "11"], False),
    "U-Net": (("1111", "1001", "1111"), UNET, ["1111", "0001", "1111"], False),
    "chain, long hold": (("11", "10", "10", "10", "11"), CHAIN, 5, True),
    "chain, hold twice": (("11", "10", "00", "11"), CHAIN, 5, True),
    "chain, last step": (("11", "10"), CHAIN, ["11", "10"], True),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples_of_equation_12(name):
    rows, graph, paper, keeps_output = EXAMPLES[name]
    mask = mask_of(*rows)
    rectified = rectify_paper(mask)
    if isinstance(paper, int):
        assert rectified.compute.sum() == paper
    else:
        assert words(rectified.compute) == paper
    symbols = Symbols(graph)
    assert (run_table(symbols, rectified.actions) == run_table(symbols, mask.actions)) == keeps_output
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


@given(rows=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6), count=st.integers(1, 4))
def test_on_a_chain_it_keeps_the_output_and_never_beats_the_exact_rule(rows, count):
    compute = np.array(rows)[:, :count]
    compute[0] = True
    mask, chain = mask_of(*words(compute)), BlockGraph.chain(sites(count))
    symbols, rectified = Symbols(chain), rectify_paper(mask)
    assert run_table(symbols, rectified.actions) == run_table(symbols, mask.actions)
    assert make_plan(mask, chain).compute.sum() <= rectified.compute.sum() <= mask.compute.sum()
