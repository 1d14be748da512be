"""Fixtures for tests of the command line: tiny pipelines on disk, masks for them, and a runner.

The conftest.py of every folder that tests verbs imports them from here.
"""

import pytest
from typer.testing import CliRunner

from stepmask import schedules
from stepmask.cli import app
from stepmask.family import MaskFamily, Member
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Saves a pipeline; returns its folder."""

    def save(pipe, name):
        path = tmp_path_factory.mktemp("models") / name
        pipe.save_pretrained(path)
        return path

    return save


@pytest.fixture(scope="session")
def folder(saved):
    """A tiny DDIMPipeline in a folder."""
    return saved(ddim_pipeline(), "ddim")


@pytest.fixture(scope="session")
def ddpm_folder(saved):
    return saved(ddpm_pipeline(), "ddpm")


@pytest.fixture(scope="session")
def dit_folder(saved):
    return saved(dit_pipeline(), "dit")


@pytest.fixture(scope="session")
def mask_file(tmp_path_factory):
    """FORA for the pipeline in `folder`, 4 steps."""
    path = tmp_path_factory.mktemp("masks") / "fora.json"
    schedules.fora(ddim_pipeline(), 4, interval=2).save(path)
    return path


@pytest.fixture(scope="session")
def family_file(mask_file):
    """Three masks for the pipeline in `folder`: the full run, FORA every 2nd and every 3rd of 4 steps."""
    path, pipe = mask_file.parent / "family.json", ddim_pipeline()
    masks = [(schedules.fora(pipe, 4, interval=interval), interval) for interval in (1, 2, 3)]
    MaskFamily(tuple(Member(0.9994 / interval, 60.0 / interval, mask) for mask, interval in masks)).save(path)
    return path


@pytest.fixture
def quick():
    """Options of a search that is over in a second."""
    few = {"rounds": 1, "gains": 1, "num-probes": 1, "num-validation": 3, "num-held-back": 2, "num-moves": 1}
    return ["--steps", 4, "--shrink", 0.7, *(word for name, number in few.items() for word in (f"--{name}", number))]


@pytest.fixture
def run():
    """Runs a command line; returns exit code, stdout, and stderr."""

    def call(*arguments, code=0):
        result = CliRunner(env={"COLUMNS": "120", "TERM": "dumb"}).invoke(app, [str(a) for a in arguments])
        if result.exit_code != code:
            raise AssertionError(f"exit code {result.exit_code}: {result.output}") from result.exception
        return result

    return call


def words(result) -> str:
    """The error that a verb ended with, in one line."""
    text = " ".join(result.stderr.split())
    assert text.startswith("error: ") and "Traceback" not in text
    return text
