"""Tiny pipelines on disk, and a runner for the command line."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from stepmask import schedules
from stepmask.cli import app
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny DDIMPipeline in a folder."""
    path = tmp_path_factory.mktemp("models") / "ddim"
    ddim_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def ddpm_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "ddpm"
    ddpm_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def dit_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "dit"
    dit_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def mask_file(tmp_path_factory):
    """FORA for the pipeline in `folder`, 4 steps."""
    path = tmp_path_factory.mktemp("masks") / "fora.json"
    schedules.fora(ddim_pipeline(), 4, interval=2).save(path)
    return path


@pytest.fixture
def run():
    """Runs a command line; returns exit code, stdout, and stderr."""

    def call(*arguments, code=0):
        result = CliRunner(env={"COLUMNS": "120", "TERM": "dumb"}).invoke(app, [str(a) for a in arguments])
        if result.exit_code != code:
            raise AssertionError(f"exit code {result.exit_code}: {result.output}") from result.exception
        return result

    return call
