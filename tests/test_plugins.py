"""What a stranger's package adds without a change in stepmask: each in under 40 lines, found by its entry point."""

import pytest

from outsiders import Stranger

MOST_LINES = 40

MODEL = """
import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x, t):
        for layer in self.layers:
            x = x + layer(x + t[:, None, None] / 1000).tanh()
        return x
"""

ARCHITECTURE = '''
import torch

from stepmask.architectures import Architecture, register


@register("Mixer")
class MixerFamily(Architecture):
    """Sites are the layers, whose values are added to a stream."""

    patterns = {"layers.*": "mlp"}
    step_inputs = ("x", "t")
    timestep_name = "t"

    def example_inputs(self, model, batch_size=1):
        return {"x": torch.randn(batch_size, 5, 8), "t": torch.full((batch_size,), 500)}

    def run(self, model, inputs):
        return model(**inputs)
'''

SCHEDULE = '''
import numpy as np

from stepmask.schedules import ScheduleInputs, check_interval, register


@register
def later_half(graph_or_pipe, timesteps, interval: int = 2):
    """All blocks compute in the first half of the run, and at every k-th step of the second.

    Args:
        graph_or_pipe: A `BlockGraph` or a pipeline.
        timesteps: The timesteps of the run; with a pipeline the number of inference steps.
        interval: k, in steps.
    """
    check_interval(interval)
    inputs = ScheduleInputs(graph_or_pipe, timesteps)
    steps = np.arange(len(inputs.timesteps))
    compute = np.ones((len(steps), len(inputs.graph)), dtype=bool)
    between = (steps >= len(steps) // 2) & (steps % interval != 0)
    compute[np.ix_(between, inputs.graph.blocks)] = False
    return inputs.mask(compute, method="later_half", interval=interval)
'''

COMMAND = '''
from pathlib import Path

import typer

from stepmask import StepMask
from stepmask.cli import app
from stepmask.errors import StepMaskError


@app.command()
def density(mask: Path = typer.Argument(help="File with a mask.")) -> None:
    """Say which share of the cells of a mask computes."""
    if mask.suffix != ".json":
        raise StepMaskError(f"{mask} is no mask file: give the .json that learn or schedule wrote")
    typer.echo(f"{StepMask.load(mask).compute.mean():.0%}")
'''

SOURCES = {"architecture": ARCHITECTURE, "schedule": SCHEDULE, "command": COMMAND}


@pytest.fixture
def stranger(tmp_path) -> Stranger:
    return Stranger(tmp_path)


@pytest.mark.parametrize("kind", SOURCES)
def test_each_is_short(kind):
    assert len(SOURCES[kind].strip().splitlines()) < MOST_LINES


def test_an_architecture(stranger):
    stranger.install("stepmask.plugins", ARCHITECTURE)
    (stranger.folder / "mixer.py").write_text(MODEL)
    code = """
import torch, stepmask
from diffusers import DDIMScheduler
from mixer import Mixer
from stepmask.inspection.sampler_loop import SamplerLoop
model, scheduler = Mixer().eval(), DDIMScheduler(clip_sample=False)
graph = stepmask.describe(model)  # its entry point finds the family
loop = SamplerLoop(model, scheduler)
full = loop(2, 4, torch.Generator().manual_seed(0)).images
for interval in (1, 2):
    with stepmask.apply(model, stepmask.schedules.fora(loop, 4, interval), scheduler=scheduler):
        assert torch.equal(loop(2, 4, torch.Generator().manual_seed(0)).images, full) == (interval == 1)
print(*graph.names, stepmask.measure_cost(model).step_macs)
"""
    assert stranger.run(code) == f"layers.0 layers.1 layers.2 {3 * 5 * 8 * 8.0}"


@pytest.mark.slow
def test_a_schedule(stranger):
    stranger.install("stepmask.plugins", SCHEDULE)
    code = """
import stepmask
from typer.testing import CliRunner
from stepmask.graph import BlockGraph, Site
graph = BlockGraph.branches([Site("a", "mlp"), Site("b", "mlp")])
mask = stepmask.schedules.later_half(graph, range(8), interval=2)
print(mask.compute.all(axis=1).astype(int).tolist(), "later_half" in stepmask.schedules.names())
from stepmask.cli import app  # it is a rule of the command line too
assert "later_half: All blocks compute in the first half" in CliRunner().invoke(app, ["schedule", "--help"]).output
command = ["schedule", "preset:ddpm-cifar10-32", "--rule", "later_half", "--steps", "6", "--set", "interval=3"]
assert "mask.json: 6 steps x 34 sites" in CliRunner().invoke(app, command).output
"""
    assert stranger.run(code) == "[1, 1, 1, 1, 1, 0, 1, 0] True"


def test_a_command(stranger):
    stranger.install("stepmask.commands", COMMAND)
    from stepmask import StepMask

    StepMask(compute=[[True, True], [False, False]], sites=["a", "b"], timesteps=[2, 1]).save(
        stranger.folder / "mask.json"
    )
    assert stranger.python("-m", "stepmask", "density", "mask.json").stdout.strip() == "50%"
    refused = stranger.python("-m", "stepmask", "density", "mask.txt")
    assert refused.returncode == 2 and refused.stderr.startswith("error: mask.txt is no mask file")
    assert "Say which share of the cells" in stranger.python("-m", "stepmask", "--help").stdout


def test_one_that_cannot_be_imported_is_left_out_with_a_warning(stranger):
    stranger.install("stepmask.plugins", "import nothing_of_this_name\n", name="broken")
    stranger.install("stepmask.plugins", SCHEDULE)
    done = stranger.python("-c", "import stepmask; print('later_half' in stepmask.schedules.names())")
    assert done.returncode == 0 and done.stdout.strip() == "True"
    said = "the plugin 'broken' (broken_package) cannot be imported and is left out: ModuleNotFoundError"
    assert done.stderr.count(said) == 1
