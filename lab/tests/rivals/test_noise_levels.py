"""Noise levels: a DDIM step is one of Euler's method over the time of a flow, and errors move the sample as it says."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from refusal import check_refused
from stepmask_lab.rivals.noise_levels import displacements, flow_times, noise_levels, prediction_of
from tiny import generator


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_an_error_of_the_output_moves_the_sample_of_a_flow_so_far(prediction):
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, prediction_type=prediction)
    scheduler.set_timesteps(10)
    (signal, noise), times, moves = noise_levels(scheduler), flow_times(scheduler), displacements(scheduler)
    assert prediction_of(scheduler) == prediction and times[-1] == 0 and (np.diff(times) < 0).all()
    sample, output = (torch.randn(2, 3, dtype=torch.float64, generator=generator(seed)) for seed in (0, 1))
    for row in (0, 4, 9):
        ends = [
            scheduler.step(output + error, scheduler.timesteps[row], sample).prev_sample.double()
            for error in (0.0, 0.1)
        ]
        scale = signal[row + 1] + noise[row + 1] if row < 9 else 1.0
        moved = (ends[1] - ends[0]) / scale
        assert torch.allclose(moved.abs(), torch.full_like(moved, 0.1 * moves[row]), rtol=1e-3), row


def test_a_flow_has_its_own_time():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    assert prediction_of(scheduler) == "flow"
    assert np.allclose(flow_times(scheduler), scheduler.sigmas)
    assert np.allclose(displacements(scheduler), -np.diff(scheduler.sigmas))


def test_what_says_no_levels_is_refused():
    karras = EDMEulerScheduler()
    karras.set_timesteps(5)
    for scheduler in (object(), karras):
        check_refused("says neither alphas_cumprod nor sigmas of a flow", noise_levels, scheduler)
