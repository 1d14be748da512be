"""What a user asks of a mask is checked in words, before anything is loaded or run."""

import json

import pytest

from refusal import check_refused
from stepmask import MaskFamily, TargetError, fit_gains, learn, learn_family
from stepmask.family import Member
from stepmask.learning import Goals
from stepmask.learning.goals import masks_of, shares_of
from stepmask.schedules import fora
from tiny import dit_pipeline


@pytest.mark.parametrize(("goals", "says"), [
    ({"target_macs": 0.6, "min_psnr": 40}, "one of target_macs, .*speedup together, got target_macs, min_psnr"),
    ({"target_speedup": 2.0, "min_psnr": 40}, "got target_speedup, min_psnr"),
    ({"target_macs": 0.6, "target_speedup": 2.0, "min_psnr": 40}, "got target_macs, target_speedup, min_psnr"),
    ({"target_macs": 0.6, "target_speedup": 2.0, "targets": (0.5,)}, "got target_macs, target_speedup, targets"),
    ({"target_macs": 0.6, "target_speedup": 0.5}, "target_speedup is a factor of at least 1"),
    ({}, "got none"),
    ({"max_cache_bytes": 100}, "got none"),
    ({"targets": ()}, "targets must name at least one share"),
    ({"target_speedup": 0.5}, "target_speedup is a factor of at least 1"),
    ({"target_speedup": float("nan")}, "target_speedup is a factor"),
    ({"target_speedup": "fast"}, "target_speedup is a factor"),
    ({"target_speedup": True}, "target_speedup is a factor"),
    ({"min_psnr": -3}, "min_psnr is in dB, between 0 and 80, got -3"),
    ({"min_psnr": "good"}, "min_psnr is in dB"),
    ({"target_macs": 0.5, "max_cache_bytes": 0}, "max_cache_bytes must be a positive number"),
    ({"target_macs": 0.5, "max_cache_bytes": "1 GB"}, "max_cache_bytes must be a positive number"),
])  # fmt: skip
def test_goals_that_make_no_sense(goals, says):
    check_refused(says, Goals, **goals, error=TargetError)


def test_what_is_given():
    goals = Goals(target_macs=0.5, max_cache_bytes=10**6, start=("a mask",))
    assert goals.given == {"target_macs": 0.5, "max_cache_bytes": 10**6, "start": ("a mask",)}
    assert goals.to_dict() == {"target_macs": 0.5, "max_cache_bytes": 10**6}
    three = {"target_macs": 0.5, "target_speedup": 1.8, "max_cache_bytes": 10**6}
    assert Goals(**three).to_dict() == three
    family = Goals(targets=(0.5, 0.4))
    assert json.loads(json.dumps(family.to_dict())) == family.to_dict() == {"targets": [0.5, 0.4]}
    assert Goals(needs_target=False).given == {}


def test_masks_to_start_from():
    mask = fora(dit_pipeline(), 4)
    assert masks_of(None) == () and masks_of(mask) == (mask,) and masks_of([mask, mask]) == (mask, mask)
    assert masks_of(MaskFamily((Member(0.5, 30.0, mask),))) == (mask,)
    for start, kind in (("mask.json", "str"), (3, "int"), ([mask, None], "NoneType")):
        check_refused(f"start takes a StepMask, a MaskFamily or several masks, got {kind}", masks_of, start)


@pytest.mark.parametrize("targets", [0.5, "0.5", None])
def test_targets_of_a_family(targets):
    assert shares_of(share for share in (0.5, 0.4)) == (0.5, 0.4)
    with pytest.raises(TargetError, match=r"targets are several shares of the full run, such as \(0.6, 0.4\), got"):
        learn_family(dit_pipeline(), 4, targets)


# --- at the door


@pytest.mark.parametrize("seed", [None, 1.5, "x", -1, True])
def test_seeds(seed):
    pipe, says = dit_pipeline(), "seed must be a whole number of at least 0, got"
    for call in (
        lambda: learn(pipe, 4, 0.6, seed=seed),
        lambda: learn_family(pipe, 4, (0.6,), seed=seed),
        lambda: fit_gains(pipe, fora(pipe, 4, 2, forecast="linear"), seed=seed),
    ):
        check_refused(says, call)


@pytest.mark.parametrize("method", ["end-to-end", "paper"])
@pytest.mark.parametrize(("arguments", "says"), [
    ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1, got 0"),
    ({"num_inference_steps": 2.5}, "num_inference_steps must be a whole number"),
    ({"num_inference_steps": True}, "num_inference_steps must be a whole number"),
    ({"target_macs": 0}, r"in \(0, 1\]"),
    ({"target_macs": 1.2}, r"in \(0, 1\]"),
    ({"target_macs": "half"}, r"in \(0, 1\].*'half'"),
    ({"target_macs": 0.05}, "target_macs=0.05 cannot be reached"),
    ({"call_kwargs": "abc"}, "call_kwargs is a dictionary of arguments for the pipeline's call, got 'abc'"),
    ({"pipe": "model"}, "expected a diffusers pipeline"),
])  # fmt: skip
def test_arguments_that_make_no_sense(arguments, says, method):
    arguments = {"pipe": dit_pipeline(), "num_inference_steps": 4, "progress": False, **arguments}
    check_refused(says, learn, method=method, **arguments)


def test_a_bare_denoiser_needs_its_scheduler():
    check_refused("bare denoiser needs its scheduler", learn, dit_pipeline().transformer, 4)
    check_refused("got none", learn, dit_pipeline(), 4, None, error=TargetError)
