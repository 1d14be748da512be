"""Learning finds what is known to be right: a block that changes is computed, one that does not is held."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from stepmask import BlockGraph, Site, learn
from stepmask.inspection import registry as _registry
from stepmask.inspection.architecture import Architecture
from stepmask.learning import Paper


class Branch(nn.Module):
    """A matrix product, as long as both branches cost the same; `speed` says how fast its value changes."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = speed
        self.mix = nn.Linear(16, 16, bias=False)
        nn.init.eye_(self.mix.weight)

    def forward(self, x, time):
        pattern = self.mix(torch.ones_like(x))
        return pattern * torch.cos(self.speed * time).view(-1, 1, 1, 1)


class TwoBranches(nn.Module):
    """``(x + still + moving) / 3``: both branches are as large, only one changes from step to step."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=16, in_channels=1)
        self.still, self.moving = Branch(0.0), Branch(0.02)

    def forward(self, sample, timestep, return_dict=True):
        return ((sample + self.still(sample, timestep) + self.moving(sample, timestep)) / 3,)


class Family(Architecture):
    step_inputs = ("sample", "timestep")

    def graph(self, model):
        return BlockGraph.branches([Site("still", "mlp"), Site("moving", "mlp")])

    def example_inputs(self, model, batch_size=1):
        parameter = next(model.parameters())
        sample = torch.zeros(batch_size, 1, 16, 16, device=parameter.device)
        return {"sample": sample, "timestep": torch.zeros(batch_size, device=parameter.device)}

    def tiny(self):
        return TwoBranches()


@pytest.mark.parametrize("sampling", ["random", "gumbel", "interpolation"])
def test_what_moves_is_computed_and_what_does_not_is_held(monkeypatch, sampling):
    monkeypatch.setitem(_registry._architectures, "TwoBranches", Family())
    config = Paper(num_trajectories=12, sampling=sampling)
    steps, target = 8, 0.5 + 0.5 / 8  # row 0 computes both, every other row one
    seen = []
    options = {"scheduler": DDIMScheduler(), "callback": seen.append, "progress": False}
    mask = learn(TwoBranches(), steps, target, method=config, **options)
    still, moving = mask.compute[1:].T
    assert moving.all() and not still.any()
    assert (mask.scores[1:, 1] > mask.scores[1:, 0]).all()
    assert seen[-1].macs < seen[0].macs, "the budget falls"
