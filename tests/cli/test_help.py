"""Help comes at once, lists every verb, and the options of learn are those of its configurations."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import stepmask
from stepmask.cli import app
from stepmask.cli.common.app import ORDER
from stepmask.cli.learn import Method
from stepmask.learning import learners
from stepmask.learning.registry import DEFAULT

GROUP = typer.main.get_command(app)
VERBS = GROUP.commands
LEARN = {p.name: p for p in VERBS["learn"].params}


def test_help_and_version_import_no_torch():
    code = (
        "import sys\nfrom stepmask.cli import app\n"
        "for option in ('--help', '--version'):\n"
        "    try: app([option])\n    except SystemExit: pass\n"
        "print(sorted({'torch', 'diffusers', 'matplotlib', 'torchmetrics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert done.strip().endswith("[]")
    assert f"stepmask {stepmask.__version__} (python 3." in done and ", diffusers 0." in done


def test_the_package_is_the_command_too():
    done = subprocess.run([sys.executable, "-m", "stepmask", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: stepmask " in done.stdout


def test_every_verb_is_listed_in_order_and_has_a_file(run):
    assert GROUP.list_commands(None)[: len(ORDER)] == list(ORDER)
    text = run("--help").output
    assert all(verb in text for verb in ORDER)
    files = {path.stem.rstrip("_") for path in (Path(stepmask.__file__).parent / "cli").glob("[a-z]*.py")}
    assert files == set(ORDER)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_does(verb, run):
    assert "Usage" in run(verb, "--help").output
    texts = {p.name: getattr(p, "help", "") or "" for p in VERBS[verb].params if p.name != "help"}
    assert not [name for name, text in texts.items() if not text.endswith(".") or len(text) < 15]


@pytest.mark.parametrize("method", learners())
def test_every_option_of_a_method_is_offered_and_its_help_says_the_default(method, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    text = run("learn", "--method", method, "--help").output.partition(f"Options of --method {method} ")[2]
    entries = [" ".join(entry.replace("│", " ").split()) for entry in text.split("│ --")[1:]]
    told = {entry.split()[0].replace("-", "_"): entry for entry in entries}
    for known in learners()[method].configuration.options():
        if not known.on_command_line:
            assert known.name not in LEARN
            continue
        assert LEARN[known.name].default is None, "an option that is not given leaves the choice to the method"
        value, name = known.default, known.name.replace("_", "-")
        assert known.help.split()[0] in told[known.name]
        shown = f"--{'' if value else 'no-'}{name}" if known.type is bool else f"{value}"
        assert value is None or f"Default: {shown}" in told[known.name]
    own = {option.name for option in learners()[method].configuration.options()}
    others = {option.name for other in learners().values() for option in other.configuration.options()} - own
    assert not others & told.keys()


def test_help_of_learn_without_a_method_leaves_their_options_out(run):
    assert "Options of --method" not in run("learn", "--help").output


@pytest.mark.parametrize("function", [stepmask.learn, stepmask.learn_family])
def test_learn_has_the_arguments_of_learn_and_of_learn_family(function):
    spelled = {
        "num_inference_steps": "steps", "pipe": "model", "call_kwargs": "guidance_scale",
        "max_cache_bytes": "max_cache_mib",
    }  # fmt: skip
    own = set(inspect.signature(function).parameters) - {"callback", "progress", "options"}
    assert {spelled.get(name, name) for name in own} <= LEARN.keys()


def test_methods_and_target_are_those_of_learn():
    assert [one.value for one in Method] == list(learners()) and LEARN["method"].default == DEFAULT
    assert all(f"[b]{name}[/b] {one.summary}" in LEARN["method"].help for name, one in learners().items())
    assert "it is 0.6." in LEARN["target_macs"].help
