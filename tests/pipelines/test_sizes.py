"""What was learned at a small size runs at a large one: the same sites, the same rows."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from cases import BY_NAME, Case

import stepmask
from stepmask import StepMask, fit_gains
from tiny import FEW

SMALL, LARGE = {"height": 16, "width": 16}, {"height": 64, "width": 64}
SHIFTING = "Flux, true guidance"


def case_of(name: str) -> Case:
    return replace(BY_NAME[name], sizes=(SMALL, LARGE))


def learned(case: Case, **options) -> tuple[object, StepMask]:
    """A pipeline, and a mask learned at the small size."""
    pipe = case.build()
    return pipe, stepmask.learn(
        pipe, case.steps, 0.6, call_kwargs=case.arguments(), rounds=0, progress=False, **FEW, **options
    )


@pytest.mark.parametrize("name", [pytest.param("Stable Diffusion", marks=pytest.mark.slow), "PixArt-Sigma"])
def test_a_mask_of_a_small_size_runs_at_a_large_one(name):
    case = case_of(name)
    pipe, mask = learned(case)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = stepmask.evaluate(pipe, mask, seeds=2, call_kwargs=case.arguments(2, 1), speed=False)
        small = stepmask.evaluate(pipe, mask, seeds=2, call_kwargs=case.arguments(2), speed=False)
    assert result.masked.shape[-1] > small.masked.shape[-1] and result.psnr.mean > 20
    assert 0.4 < result.macs_fraction < 0.75 and result.macs_fraction != small.macs_fraction
    again = fit_gains(pipe, mask, 1, call_kwargs=case.arguments(1, 1))
    assert again.check(graph=stepmask.describe(pipe)) is None and again.num_rows == mask.num_rows


def test_shifted_timesteps_are_said_and_can_be_taken_over():
    case = case_of(SHIFTING)
    pipe, mask = learned(case)
    with pytest.warns(UserWarning, match=r"timesteps differ .* at another size .*row by row, and mask\.resample"):
        with stepmask.apply(pipe, mask) as run:
            case.run(pipe, size=1)
            assert run.summary().macs_fraction < 0.7
    here = mask.resample(pipe.scheduler)
    assert here.timesteps != mask.timesteps and here.timesteps == tuple(map(float, pipe.scheduler.timesteps))
    assert np.array_equal(here.actions, mask.actions)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with stepmask.apply(pipe, here):
            case.run(pipe, size=1)


def test_a_mask_of_a_small_size_is_a_start_at_a_large_one():
    case = case_of(SHIFTING)
    pipe, mask = learned(case)
    options = {"rounds": 0, "progress": False, "start": mask, **FEW}
    large = stepmask.learn(pipe, case.steps, 0.7, call_kwargs=case.arguments(1, 1), **options)
    assert large.timesteps != mask.timesteps and large.provenance["started_from_masks"] == 1
