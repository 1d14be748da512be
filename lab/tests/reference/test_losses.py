"""What the reference models minimise."""

import torch

from stepmask_lab.reference.losses import spread_timesteps


def test_timesteps_of_a_batch_are_spread_evenly_and_all_occur():
    torch.manual_seed(0)
    drawn = torch.stack([spread_timesteps(5, 20, torch.device("cpu")) for _ in range(400)])
    assert drawn.dtype == torch.long and drawn.min() == 0 and drawn.max() == 19
    assert (drawn.sort(1).values.diff() == 4).all()
    for row in drawn.T:
        assert len(row.unique()) == 20, "each by itself is anywhere"
