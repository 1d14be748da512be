"""The examples run, on a tiny model and with few steps."""

import runpy
from pathlib import Path

import pytest

import stepmask
from small import ldm_pipeline
from stepmask_lab import reference
from tiny import FEWEST, ddim_pipeline

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = {"steps": 4, "rounds": 0, **FEWEST}
FEW = {
    "learn_and_sample": QUICK, "family": QUICK, "compare_schedules": {"steps": 4, "num_images": 2},
    "gains": {"steps": 6, "key_steps": 4, "iterations": 2, "seeds": 2}, "bare_denoiser": {"steps": 3},
    "any_model": QUICK, "objective": QUICK,
}  # fmt: skip
SAYS = {
    "learn_and_sample": "of the MACs", "family": "of cells compute", "compare_schedules": "speed-up, denoiser",
    "gains": "of the MACs", "bare_denoiser": "5 steps", "any_model": "of the MACs", "objective": "MACs of the plan",
}  # fmt: skip


def test_every_example_is_run():
    """That of a server in ``tests/pipelines/test_server.py``."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*FEW, "serve"}


@pytest.mark.parametrize("name", FEW)
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = {"ddpm-cifar10": ddim_pipeline, "ldm-cifar10": ldm_pipeline}
    monkeypatch.setattr(reference, "load", lambda name: tiny[name]())
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**FEW[name])
    assert SAYS[name] in capsys.readouterr().out
    if name == "learn_and_sample":
        assert stepmask.StepMask.load("mask.json").provenance["cost"] <= 0.5 and Path("image_3.png").exists()
