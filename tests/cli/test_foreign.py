"""Published schedules in and out on the command line."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from command_line import words
from stepmask import StepMask, schedules
from stepmask.cli import import_
from tiny import dit_pipeline


@pytest.fixture
def router(tmp_path):
    """4 steps for the tiny DiT of 3 blocks: half of the layers at each second step."""
    routers = {f"{i}.prob": torch.tensor([-5.0, 5.0] * 3) for i in range(4)}
    torch.save({"routers": routers, "opt": {}, "args": argparse.Namespace(l1=0)}, tmp_path / "router.pt")
    return tmp_path / "router.pt"


def test_a_router_becomes_a_mask(run, dit_folder, router, tmp_path):
    file = tmp_path / "new" / "mask.json"
    text = run("import", router, "--model", dit_folder, "-o", file).stdout
    mask = StepMask.load(file)
    assert mask == schedules.import_l2c(router, dit_pipeline())
    assert f"{file}: 4 steps x 6 sites, 6 of 24 cells hold\n" in text and "of the full run's MACs" in text
    run(
        "import", router, "--model", dit_folder, "-o", file, "--theta", 0.995, "--format", "l2c", "--scheduler", "dpm++"
    )
    again = StepMask.load(file)
    assert (~again.compute).sum() == 12 and again.scheduler["class"] == "DPMSolverMultistepScheduler"


def test_a_preset_needs_no_weights(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.json").write_text(json.dumps({"attn": [1, 0, 1], "mlp-27": [1, 1, 0]}))
    text = run("import", "s.json", "--model", "preset:dit-xl-2-256").stdout
    mask = StepMask.load("mask.json")
    assert "mask.json: 3 steps x 56 sites, 29 of 168 cells hold" in text
    assert mask.scheduler is None and mask.timesteps == (666, 333, 0) and mask.graph is not None
    run("import", "s.json", "--model", "preset:dit-xl-2-256", "--scheduler", "euler")
    assert StepMask.load("mask.json").timesteps != mask.timesteps


def test_masks_go_out_and_come_back(run, dit_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schedules.random_schedule(dit_pipeline(), 5).save("mask.json")
    assert "smoothcache.json: 5 steps, 6 lists" in run("export", "mask.json").stdout
    assert sorted(json.loads(Path("smoothcache.json").read_text()))[0] == "attn1-0"
    run("export", "mask.json", "--names", "dit", "-o", "dit.json")
    assert sorted(json.loads(Path("dit.json").read_text()))[-1] == "mlp-2"
    for file in ("smoothcache.json", "dit.json"):
        run("import", file, "--model", dit_folder, "-o", "back.json")
        assert (StepMask.load("back.json").compute == StepMask.load("mask.json").compute).all()


def test_whole_steps_go_out_and_come_back(run, dit_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schedules.key_steps(dit_pipeline(), 5, [0, 1, 3]).save("mask.json")
    assert "cache-dit.yaml: 5 steps, 3 of them compute" in run("export", "mask.json", "--format", "cache-dit").stdout
    run("export", "mask.json", "-o", "two.yaml")
    assert Path("two.yaml").read_text() == Path("cache-dit.yaml").read_text()
    run("import", "two.yaml", "--model", dit_folder, "-o", "back.json")
    assert (StepMask.load("back.json").actions == StepMask.load("mask.json").actions).all()
    refused = run("export", "mask.json", "-o", "three.yaml", "--names", "dit", code=2)
    assert "--names belongs to --format smoothcache" in words(refused) and not Path("three.yaml").exists()


def test_what_is_refused(run, dit_folder, folder, mask_file, router, tmp_path):
    out = tmp_path / "out.json"
    (tmp_path / "bad.pt").write_bytes(b"no router")
    assert "no file of torch.save" in words(
        run("import", tmp_path / "bad.pt", "--model", dit_folder, "-o", out, code=2)
    )
    assert "are for DiT" in words(run("import", router, "--model", folder, "-o", out, code=2))
    assert "cannot read" in words(run("import", tmp_path / "none.json", "--model", dit_folder, "-o", out, code=2))
    assert "no preset" in words(run("import", router, "--model", "preset:nope", "-o", out, code=2))
    assert "this mask holds down_blocks" in words(run("export", mask_file, "-o", out, code=2))
    assert not out.exists()


@pytest.mark.parametrize(("name", "options", "says"), [
    ("x.txt", [], "give --format l2c or smoothcache or cache-dit"),
    ("x.json", ["--theta", 0.5], "--theta belongs to --format l2c"),
])  # fmt: skip
def test_options_that_make_no_sense_fail_before_the_model_is_loaded(name, options, says, run, tmp_path):
    text = words(run("import", tmp_path / name, "--model", tmp_path / "nope", *options, code=2))
    assert says in text and "nope" not in text


def test_theta_is_that_of_the_library():
    assert import_.THETA == schedules.import_l2c.__defaults__[-1]
