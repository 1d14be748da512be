"""The wheel holds the product alone, and every verb runs where nothing but the wheel and its dependencies is."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import stepmask
from stepmask import schedules
from stepmask.family import MaskFamily, Member
from tiny import FEW, dit_pipeline, quiet

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
QUICK = [
    word
    for name, value in {"steps": 4, "rounds": 0, **FEW}.items()
    for word in (f"--{name.replace('_', '-')}", str(value))
]

# in one process, so that torch is imported once
VERBS = """
import importlib.util, json, sys
from pathlib import Path
from stepmask.cli import app

hidden = ("matplotlib", "plotly", "torchmetrics", "transformers", "accelerate", "stepmask_lab", "tiny", "pytest")
assert not [name for name in hidden if importlib.util.find_spec(name)]
calls = json.loads(Path(sys.argv[1]).read_text())
for words, code in calls:
    try:
        app(words)
    except SystemExit as error:
        assert error.code == code, (words, error.code)

from diffusers import DiTPipeline
import stepmask
pipe = DiTPipeline.from_pretrained("model")
with stepmask.apply(pipe, stepmask.StepMask.load("mask.json")):
    pipe(class_labels=[1], num_inference_steps=4)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, as building leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder)
    (built,) = folder.glob("*.whl")
    return built


def pip(*words):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a new environment: the wheel, and links to what it depends on, which is here already."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    executable = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in dependencies(PROJECT["dependencies"]):
        found = distribution(name)
        for part in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (packages / part).exists():  # some distributions share a folder
                (packages / part).symlink_to(found.locate_file(part))
    pip("--python", executable, "install", "--no-deps", "--no-index", wheel)
    return executable


def dependencies(requirements) -> set[str]:
    """Names of all distributions that these ask for, and what those ask for, without extras."""
    found, open_ = set(), [Requirement(text) for text in requirements]
    while open_:
        one = open_.pop()
        wanted = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in one.extras or {""})
        if wanted and canonicalize_name(one.name) not in found:
            found.add(canonicalize_name(one.name))
            open_ += [Requirement(text) for text in distribution(one.name).requires or []]
    return found


def family_of(mask):
    return MaskFamily((Member(0.5, 40.0, mask),))


def test_it_is_small_and_holds_the_product_alone(wheel):
    assert wheel.stat().st_size < 10**6
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        content = message_from_bytes(file.read(metadata))
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"stepmask"}
    own = Path(stepmask.__file__).parent
    files = {f"stepmask/{path.relative_to(own).as_posix()}" for path in own.rglob("*.*") if path.suffix != ".pyc"}
    assert {name for name in names if ".dist-info" not in name} == files
    asked = [text for text in content.get_all("Requires-Dist") if "extra ==" not in text]
    assert {str(Requirement(text)) for text in asked} == {str(Requirement(text)) for text in PROJECT["dependencies"]}
    assert set(content.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


def test_every_verb_runs_without_anything_else(python, tmp_path):
    quiet(dit_pipeline()).save_pretrained(tmp_path / "model")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "model_index.json").write_text(
        json.dumps({"text_encoder": ["transformers", "T5EncoderModel"]})
    )
    mask = ["--mask", "mask.json"]
    calls = [
        (["--help"], 0),
        (["describe", "model"], 0),
        (["schedule", "preset:ddpm-cifar10-32", "-o", "preset.json"], 0),
        (["learn", "model", "--target-macs", "0.8", *QUICK], 0),
        (["sample", "model", *mask, "-o", "images", "-n", "2"], 0),
        (["evaluate", "model", *mask, "-n", "2", "--no-speed"], 0),
        (["show", "mask.json", "--model", "model"], 0),
        (["show", "mask.json", "-o", "pictures"], 2),
        (["report", "mask.json", "--model", "model", "-o", "page"], 0),
        (["report", "family.json", "-o", "page"], 2),
        (["report", "model", "-o", "page"], 2),
        (["import", "schedule.json", "--model", "model", "-o", "imported.json"], 0),
        (["export", "imported.json", "-o", "exported.json"], 0),
        (["evaluate", "model", *mask, "--metrics", "fid"], 2),
        (["describe", "text"], 2),
        (["describe", "reference:ddpm-cifar10"], 2),
    ]
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    (tmp_path / "schedule.json").write_text(json.dumps({"attn": [1, 0, 1, 1], "mlp": [1, 1, 0, 1]}))
    family_of(schedules.fora(dit_pipeline(), 4, 2)).save(tmp_path / "family.json")
    (tmp_path / "verbs.py").write_text(VERBS)
    done = subprocess.run(
        [python, "verbs.py", "calls.json"], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": "", "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "images" / "side_by_side.png").exists() and (tmp_path / "exported.json").exists()
    assert "Warning" not in done.stderr, "no plugin is looked for that is not there"
    listed = done.stdout[: done.stdout.index("Begin with")]
    assert "stepmask demo" not in done.stdout and "benchmark" not in listed and "reference" not in listed
    assert "default-src 'none'" in (tmp_path / "page" / "index.html").read_text()
    extras = set(re.findall(r"pip install '?(\./lab|stepmask[-\w]*(?:\[\w+\])?)", done.stderr))
    assert extras == {"stepmask[pictures]", "stepmask[report]", "stepmask[text]", "./lab"}


@pytest.mark.parametrize("project", [REPOSITORY, REPOSITORY / "lab"], ids=["stepmask", "stepmask-lab"])
def test_what_errors_tell_to_install_exists(project):
    """Every ``pip install 'DISTRIBUTION[EXTRA]'`` in the sources names an extra that there is."""
    known = {}
    for file in (REPOSITORY / "pyproject.toml", REPOSITORY / "lab" / "pyproject.toml"):
        content = tomllib.loads(file.read_text())["project"]
        known[content["name"]] = set(content["optional-dependencies"])
    named = {
        found
        for path in (project / "src").rglob("*.py")
        for found in re.findall(r"(stepmask(?:-lab)?)\\*\[(\w+)\\*\]", path.read_text())
    }
    assert named and not [one for one in named if one[1] not in known[one[0]]]
