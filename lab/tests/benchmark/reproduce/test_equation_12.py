"""Equation 12 of the paper, as printed: what it leaves out, and where it changes the output."""

import pytest
from hypothesis import given

from graph_cases import BRANCHES, CHAIN, UNET, cases, mask_of, sites, words
from simulator import Symbols, run_table
from stepmask import BlockGraph, Site, make_plan
from stepmask.mask import Action
from stepmask_lab.reproduce.rectification import rectify_paper

# mask, graph, what Eq. 12 leaves or how much, whether it keeps the output
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


@given(case=cases((Action.hold, Action.compute)))
def test_on_a_chain_equation_12_keeps_the_output_and_never_beats_the_exact_rule(case):
    mask = case[1]
    chain = BlockGraph.chain(sites(len(mask.sites)))
    symbols = Symbols(chain)
    rectified = rectify_paper(mask)
    assert run_table(symbols, rectified.actions) == run_table(symbols, mask.actions)
    assert make_plan(mask, chain).compute.sum() <= rectified.compute.sum() <= mask.compute.sum()
