"""stepmask schedule: masks by rule, options from the rule's signature, errors in words."""

import numpy as np
import pytest

from command_line import words
from stepmask import StepMask, schedules
from tiny import ddim_pipeline


def test_a_mask_by_rule(run, folder, tmp_path):
    out = tmp_path / "mask.json"
    text = run("schedule", folder, "--rule", "fora", "--steps", 4, "--set", "interval=2", "-o", out).stdout
    mask, wanted = StepMask.load(out), schedules.fora(ddim_pipeline(), 4, interval=2)
    assert np.array_equal(mask.compute, wanted.compute) and mask.provenance == wanted.provenance
    assert mask.scheduler == wanted.scheduler and "4 steps x 19 sites" in text and "MACs after elimination" in text


def test_lists_texts_and_forecasts(run, folder, tmp_path):
    out = tmp_path / "mask.json"
    text = run("schedule", folder, "--steps", 5, "--set", "steps=[0,1,3]", "--set", "forecast=linear", "-o", out).stdout
    assert StepMask.load(out).provenance["steps"] == [0, 1, 3] and "cells hold" in text and "are forecast" in text


def test_a_preset_needs_no_weights_and_its_mask_fits_every_scheduler(run, tmp_path):
    run("schedule", "preset:ddpm-cifar10-32", "--rule", "deepcache", "--steps", 6, "-o", tmp_path / "mask.json")
    mask = StepMask.load(tmp_path / "mask.json")
    assert mask.num_rows == 6 and mask.scheduler is None


@pytest.mark.parametrize(("options", "said"), [
    (["--rule", "fora", "--set", "depth=2"], "fora takes no depth; it takes interval, forecast"),
    (["--rule", "fora", "--set", "intervall=2"], "did you mean interval?"),
    (["--rule", "fora", "--set", "interval"], "--set takes NAME=VALUE, interval=2 for example, got 'interval'"),
    (["--rule", "fora", "--set", "interval=half"], "interval must be a whole number of steps"),
    (["--rule", "deepcache", "--set", "depth=deep"], "deepcache cannot use depth='deep'"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_words(options, said, run, folder, tmp_path):
    assert said in words(run("schedule", folder, *options, "-o", tmp_path / "mask.json", code=2))


def test_help_describes_every_rule(run):
    text = " ".join(run("schedule", "--help").output.split())
    for name in schedules.names():
        assert f"{name}: {schedules.registry.summary(schedules.get(name))[:40]}" in text
        for option in schedules.registry.options(schedules.get(name)):
            assert option.help and f"- {option.name}={option.default}: " in text
