"""A way to learn that another package brings, in under 40 lines: by name, by configuration, in the help, resumed."""

import json

import pytest

from outsiders import Stranger
from tiny import dit_pipeline

PLUGIN = '''
"""Every so many steps compute; the best number of so many is found by trying."""

from dataclasses import dataclass

import numpy as np

from stepmask.learning import Configuration, Learner, option, register
from stepmask.learning.budget import Budget
from stepmask.liveness import rows_of


@dataclass(frozen=True, kw_only=True)
class Every(Configuration):
    """Every so many steps compute."""

    most: int = option(4, "The longest interval that is tried.", low=2, high=100, unit="steps")


def learn(job):
    """The shortest interval within the target that was tried."""
    task = job.task
    budget = Budget(task.graph, task.costs)
    budget.check_target(job.goals.target_macs, task.shape[0])
    state = job.checkpoint()
    with job.reporting(job.config.most, "trying") as tell:
        for interval in range(1 + state.values.get("tried", 0), job.config.most + 1):
            table = np.ones(task.shape, dtype=bool)
            table[np.arange(len(table)) % interval != 0] = False
            cost = budget.cost(rows_of(table))
            state.values["tried"] = interval
            if cost <= job.goals.target_macs and "table" not in state.arrays:
                state.arrays["table"] = table.astype(np.uint8)
            state.save()
            tell(f"every {interval}: {cost:.0%}")
    return task.mask(state.arrays["table"].astype(bool), tried=state.values["tried"], **task.facts([0, 0]))


register(Learner(name="every", configuration=Every, learn=learn, summary="computes every so many steps."))
'''

SCRIPT = """
from pathlib import Path

import stepmask
from stepmask.learning import learners
from tiny import dit_pipeline
from every_package import Every  # imported by its user as any module is

pipe = dit_pipeline()
mask = stepmask.learn(pipe, 4, 0.6, method="every", most=3, progress=False)
assert mask == stepmask.learn(pipe, 4, 0.6, method=Every(most=3), progress=False)
assert mask.compute.any(1).tolist() == [True, False, True, False], mask.compute
record = mask.provenance
assert record["method"] == "every" and record["config"] == {"most": 3} and record["tried"] == 3
assert record["asked"] == {"target_macs": 0.6} and 0.5 < record["macs"] < 0.6 and record["cache_bytes_per_image"] > 0
assert record["num_inference_steps"] == 4 and record["denoiser_calls"] == 0 and record["seconds"] >= 0
assert "most: The longest interval that is tried. Default: 4." in Every.__doc__

seen = []
def stop(report):
    seen.append(report)
    if len(seen) == 2:
        raise InterruptedError
try:
    stepmask.learn(pipe, 4, 0.6, method="every", most=3, resume="state", callback=stop, progress=False)
except InterruptedError:
    assert stepmask.learn(pipe, 4, 0.6, method="every", most=3, resume="state", callback=seen.append) == mask
assert len(seen) == 3 and seen[0] == "every 1: 100%", seen

def check_refused(says, **options):
    try:
        stepmask.learn(pipe, 4, **{"method": "every", **options})
    except stepmask.StepMaskError as error:
        assert says in str(error), error
    else:
        raise AssertionError(f"not refused: {options}")

check_refused("state belongs to another run (config.most was 3, now 4)", target_macs=0.6, resume="state")
check_refused("most must be a number between 2 and 100, got 1", most=1)
check_refused("method='every' has no option 'rounds'; there are most", rounds=1)
check_refused("method 'every' does not know min_psnr; end-to-end does", min_psnr=30)
check_refused("cannot be reached", target_macs=0.01, resume="other")
check_refused("method must be one of end-to-end, paper, ", method="each")
assert not Path("other").exists()
assert list(learners())[:2] == ["end-to-end", "paper"] and "every" in learners()
print("all of it")
"""


COMMANDS = """
import json, sys
from stepmask.cli import app

for words, code in json.loads(sys.argv[1]):
    try:
        app(words)
    except SystemExit as error:
        assert error.code == code, (words, error.code)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> str:
    """What Python says where a stranger's package is installed: of both, in one process that imports torch once."""
    folder = tmp_path_factory.mktemp("stranger")
    stranger = Stranger(folder)
    stranger.install("stepmask.plugins", PLUGIN, name="every")
    dit_pipeline().save_pretrained(folder / "dit")
    learn = ["learn", "dit", "--method", "every", "--steps", "4", "-o", "mask.json"]
    commands = [
        (["learn", "--method", "every", "--help"], 0),
        ([*learn, "--target-macs", "0.6", "--most", "2"], 0),
        ([*learn, "--most", "1"], 2),
    ]
    done = stranger.python("-c", SCRIPT + COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).replace("│", " ").split())


def test_it_takes_under_40_lines():
    assert len(PLUGIN.strip().splitlines()) < 40


@pytest.mark.slow
def test_it_is_a_way_to_learn_like_ours(said):
    assert said.startswith("all of it")


def test_it_is_on_the_command_line(said):
    assert "every computes every so many steps." in said
    assert "Options of --method every" in said and "--most" in said
    assert "The longest interval that is tried. Default: 4 steps." in said
    assert "mask.json: 4 steps x 6 sites asked for 60.0% of the MACs reached 58" in said
    assert "most must be a number between 2 and 100, got 1" in said
