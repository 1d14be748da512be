"""Two processes: one denoiser spread over both, or one in each; masks do in them what they do in one."""

import numpy as np
import pytest
from cases import BY_NAME
from runs import random_actions

import side_by_side
from several import Started
from stepmask import fit_gains, learn
from tiny import FEW

RUNS = [
    ("Flux", "ulysses, uneven"),
    ("Qwen-Image", "ring"),
    ("Flux", "tensor"),
]


@pytest.fixture(scope="module")
def learned():
    """Masks that one process has learned, with weights of all blocks together and with gains."""
    case = BY_NAME["Qwen-Image"]
    pipe, call = case.build(), {"call_kwargs": case.arguments(1)}
    searched = learn(pipe, case.steps, 0.8, progress=False, rounds=0, **{**FEW, "gains": 3}, **call)
    case.run(pipe)
    fitted = fit_gains(pipe, random_actions(pipe, 1, forecasts=1.0), iterations=2, **call)
    assert searched.weights and fitted.gains is not None and fitted.channel_gains
    return [searched, fitted]


@pytest.fixture(scope="module")
def ran(learned):
    """What both processes found, by run."""
    with_learned = [("Qwen-Image", "ulysses", mask) for mask in learned]
    both = Started(2, side_by_side.together, *RUNS, *with_learned).results()
    for one in both:
        if isinstance(one, BaseException):
            raise one
    return dict(zip([*RUNS, "searched", "fitted"], zip(*both, strict=True), strict=True))


def assert_as_one_process(found: dict) -> None:
    """Within what spreading changes by itself, times a few: each step rounds otherwise."""
    by_itself = np.abs(found["together"] - found["alone"]).max()
    assert 0 < by_itself < 1e-5
    assert np.abs(found["masked together"] - found["masked alone"]).max() <= 4 * by_itself
    assert np.abs(found["masked alone"] - found["alone"]).max() > 100 * by_itself, "the mask does something"
    assert np.array_equal(found["ones together"], found["together"])
    assert np.array_equal(found["together again"], found["together"])
    assert found["the plain model"]


@pytest.mark.parametrize("run", RUNS, ids=", ".join)
@pytest.mark.shows(
    "a denoiser spread over processes (context and tensor parallelism)",
    apply="the same mask in all, as exact as the parallel run",
)
def test_a_denoiser_that_two_processes_run_in_common(run, ran):
    first, second = ran[run]
    if "refused" in first:
        pytest.skip(f"diffusers: {first['refused']}")
    assert_as_one_process(first)
    assert all(np.array_equal(first[what], second[what]) for what in first)


@pytest.mark.slow
def test_a_video():
    ((first,), (second,)) = Started(2, side_by_side.together, ("Wan", "ulysses")).results()
    assert_as_one_process(first)
    assert all(np.array_equal(first[what], second[what]) for what in first)


@pytest.mark.parametrize("mask", ["searched", "fitted"])
def test_learned_masks(mask, ran):
    first, second = ran[mask]
    assert_as_one_process(first)
    assert np.array_equal(first["masked together"], second["masked together"])


def test_different_masks_are_refused_in_all():
    first, second = Started(2, side_by_side.with_masks_of_their_own, "Qwen-Image", "ulysses", "tensor").results()
    assert first == second and len(first) == 2 and "have different masks applied" in first[0]


@pytest.mark.shows("several processes (`accelerate launch`, `torchrun`)", apply="each runs a mask for itself")
def test_a_pipeline_in_each():
    case = BY_NAME["Flux"]
    pipe = case.build()
    case.run(pipe)
    mask = random_actions(pipe, 3, forecasts=0.5)
    for number, found in enumerate(Started(2, side_by_side.each_by_itself, "Flux", mask).results()):
        assert np.array_equal(found, side_by_side.masked(pipe, case, mask, seed=number))
