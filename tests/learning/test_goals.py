"""Arguments that make no sense are refused in words, before anything runs."""

from __future__ import annotations

import pytest

from stepmask import StepMaskError, TargetError, fit_gains, learn, learn_family
from stepmask.schedules import fora
from tiny import FEW, dit_pipeline


@pytest.mark.parametrize("seed", [None, 1.5, "x", -1, True])
def test_seeds(seed):
    pipe = dit_pipeline()
    words = "seed must be a whole number, 0 or more, got"
    with pytest.raises(StepMaskError, match=words):
        learn(pipe, 4, 0.6, seed=seed)
    with pytest.raises(StepMaskError, match=words):
        learn_family(pipe, 4, (0.6,), seed=seed)
    with pytest.raises(StepMaskError, match=words):
        fit_gains(pipe, fora(pipe, 4, 2, forecast="linear"), seed=seed)


def test_arguments_of_the_call():
    with pytest.raises(
        StepMaskError, match="call_kwargs is a dictionary of arguments for the pipeline's call, got 'abc'"
    ):
        learn(dit_pipeline(), 4, 0.6, call_kwargs="abc")


@pytest.mark.parametrize("targets", [0.5, "0.5", None])
def test_targets_of_a_family(targets):
    with pytest.raises(TargetError, match=r"targets are several shares of the full run, such as \(0.6, 0.4\), got"):
        learn_family(dit_pipeline(), 4, targets)


QUICK = {"rounds": 0, "progress": False, **FEW}


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (lambda z: None, "a row for each of the 2 images, got None"),
        (lambda z: z.sum(), r"got one of shape \(\)"),
        (lambda z: z.mean(0), r"a row for each of the 2 images, got one of shape \(4, 8, 8\)"),
        (lambda z: z * float("nan"), "makes NaN or infinite values"),
        (lambda z: z * 0, "makes 0 of everything"),
    ],
)
def test_objectives_that_say_nothing(objective, words):
    with pytest.raises(StepMaskError, match=words):
        learn(dit_pipeline(), 4, 0.6, objective=objective, **QUICK)


def test_a_search_does_not_go_on_with_another_objective_of_the_same_name(tmp_path):
    def crop(size):
        return lambda z: z[..., :size, :size]

    options = {"resume": tmp_path / "state", **QUICK}
    mask = learn(dit_pipeline(), 4, 0.6, objective=crop(8), **options)
    assert learn(dit_pipeline(), 4, 0.6, objective=crop(8), **options) == mask
    with pytest.raises(StepMaskError, match="the search that is resumed had another objective"):
        learn(dit_pipeline(), 4, 0.6, objective=crop(3), **options)
