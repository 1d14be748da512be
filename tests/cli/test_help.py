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
def test_every_option_of_a_method_is_offered_and_its_help_says_the_default(method):
    for known in learners()[method].configuration.options():
        if not known.on_command_line:
            assert known.name not in LEARN
            continue
        option = LEARN[known.name]
        assert option.default is None, "an option that is not given leaves the choice to the method"
        assert method in option.rich_help_panel and known.help.split()[0] in option.help
        usual, *others = option.help.rpartition("Default: ")[2].removesuffix(".").split("; ")
        shown = dict(other.split(": ") for other in others).get(method, usual.removesuffix(f" {known.unit}"))
        value, name = known.default, known.name.replace("_", "-")
        assert shown == (f"--{'' if value else 'no-'}{name}" if known.type is bool else f"{value}") or value is None


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
