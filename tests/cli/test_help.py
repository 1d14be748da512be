"""Help comes at once, lists every verb, and the options of learn are those of its configurations."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import typer

import stepmask
from stepmask.cli import app
from stepmask.cli._learn_options import NOT_OFFERED
from stepmask.cli.common.app import ORDER
from stepmask.cli.learn import Method
from stepmask.learning import entry

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


def test_versions_for_a_report():
    done = subprocess.run([sys.executable, "-m", "stepmask", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"stepmask {stepmask.__version__} (python 3.") and ", diffusers 0." in done.stdout


def test_the_package_is_the_command_too():
    done = subprocess.run([sys.executable, "-m", "stepmask", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: stepmask " in done.stdout and "benchmark" in done.stdout


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
    files = {path.stem.rstrip("_") for path in (Path(stepmask.__file__).parent / "cli").glob("[a-z]*.py")}
    assert files == set(ORDER)


@pytest.mark.parametrize("method", get_args(entry.Method))
def test_every_knob_is_an_option_whose_help_says_the_default(method):
    config = entry.CONFIGS[method]()
    options = {p.name: p for p in VERBS["learn"].params}
    for field in fields(config):
        if field.name in NOT_OFFERED:
            assert field.name not in options
            continue
        option, value = options[field.name], getattr(config, field.name)
        assert option.default is None, "an option that is not given leaves the choice to the method"
        assert method in option.rich_help_panel
        default = option.help.rpartition("Default: ")[2].removesuffix(".")
        usual, *others = default.split("; ")
        shown = dict(other.split(": ") for other in others).get(method, usual)
        spelled = f"--{'' if value else 'no-'}{field.name.replace('_', '-')}" if isinstance(value, bool) else str(value)
        assert shown == spelled


def test_every_knob_has_words_of_its_own():
    knobs = [p for p in VERBS["learn"].params if "method" in (getattr(p, "rich_help_panel", None) or "")]
    assert len({p.help.partition("Default")[0] for p in knobs}) == len(knobs) > 20


@pytest.mark.parametrize("function", [stepmask.learn, stepmask.learn_family])
def test_learn_has_the_arguments_of_learn_and_of_learn_family(function):
    options = {p.name for p in VERBS["learn"].params}
    asked = {
        "num_inference_steps": "steps",
        "pipe": "model",
        "call_kwargs": "guidance_scale",
        "max_cache_bytes": "max_cache_mib",
    }
    own = set(inspect.signature(function).parameters) - {"callback", "progress", "config", "options"}
    assert {asked.get(name, name) for name in own} <= options


def test_methods_and_target_are_those_of_learn():
    options = {p.name: p for p in VERBS["learn"].params}
    assert tuple(method.value for method in Method) == get_args(entry.Method)
    assert options["method"].default == inspect.signature(stepmask.learn).parameters["method"].default
    assert f"it is {entry.DEFAULT_TARGET}." in options["target_macs"].help
