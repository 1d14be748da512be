"""Help comes at once, lists every verb, and the options of learn are those of LearnConfig."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

import stepmask
from stepmask.cli import app
from stepmask.cli._app import ORDER
from stepmask.learning import LearnConfig

GROUP = typer.main.get_command(app)
VERBS = GROUP.commands


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom stepmask.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'diffusers', 'matplotlib', 'torchmetrics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_every_verb_is_listed_in_order(run):
    assert GROUP.list_commands(None) == list(ORDER)
    text = run("--help").output
    assert all(verb in text for verb in ORDER)


@pytest.mark.parametrize("verb", ORDER)
def test_every_option_says_what_it_does(verb, run):
    assert "Usage" in run(verb, "--help").output
    silent = [p.name for p in VERBS[verb].params if not getattr(p, "help", None)]
    assert set(silent) - {"help"} == set()


def test_one_file_per_verb():
    files = {path.stem for path in (Path(stepmask.__file__).parent / "cli").glob("[a-z]*.py")}
    assert files == set(ORDER)


def test_learn_has_the_options_of_its_config_and_of_learn_itself():
    options = {p.name: p for p in VERBS["learn"].params}
    for field in fields(LearnConfig):
        assert options[field.name].default == field.default
    asked = {"num_inference_steps": "steps", "pipe": "model", "call_kwargs": "guidance_scale"}
    own = set(inspect.signature(stepmask.learn).parameters) - {"callback", "progress", "config", "options"}
    assert {asked.get(name, name) for name in own} <= set(options)
