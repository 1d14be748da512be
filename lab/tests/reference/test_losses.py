"""What the reference models minimise."""

import pytest
import torch
from diffusers import DDIMScheduler

from stepmask_lab.reference.losses import denoising_loss, spread_timesteps


def test_timesteps_of_a_batch_are_spread_evenly_and_all_occur():
    torch.manual_seed(0)
    drawn = torch.stack([spread_timesteps(5, 20, torch.device("cpu")) for _ in range(400)])
    assert drawn.dtype == torch.long and drawn.min() == 0 and drawn.max() == 19
    assert (drawn.sort(1).values.diff() == 4).all()
    for row in drawn.T:
        assert len(row.unique()) == 20, "each by itself is anywhere"


SCHEDULES = {"epsilon": {}, "sample": {"beta_schedule": "squaredcos_cap_v2"}}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_one_who_knows_the_clean_sample_errs_nowhere_and_who_does_not_errs_everywhere(kind):
    scheduler = DDIMScheduler(prediction_type=kind, **SCHEDULES[kind])
    torch.manual_seed(0)
    x = torch.randn(1000, 4, 4, 4)
    signal = scheduler.alphas_cumprod[:, None, None, None].double()

    def knowing(noisy, timesteps, labels):
        known = signal[timesteps]
        return x if kind == "sample" else (noisy - known.sqrt() * x) / (1 - known).sqrt()

    def ignorant(noisy, timesteps, labels):
        return torch.zeros_like(noisy)

    loss, labels = denoising_loss(scheduler, snr_cap=5.0), torch.zeros(1000, dtype=torch.long)
    assert loss(knowing, x, labels) < 1e-6
    ratio = signal.flatten() / (1 - signal.flatten())
    weight = (ratio + 1).clamp(max=5) if kind == "sample" else ratio.clamp(max=5) / ratio
    assert loss(ignorant, x, labels).item() == pytest.approx(weight.mean().item(), rel=0.05)
