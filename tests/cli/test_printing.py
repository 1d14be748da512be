"""What is printed goes out as it is, whatever it holds and wherever it goes: one sentence or the text, no traceback."""

import json
import os
import subprocess
import sys

import pytest

from command_line import words
from stepmask import StepMask, schedules
from tiny import dit_pipeline

SLOW = pytest.mark.slow  # each starts a process of its own


@pytest.fixture(scope="module")
def dit_mask(tmp_path_factory):
    path = tmp_path_factory.mktemp("masks") / "dit.json"
    schedules.fora(dit_pipeline(), 4, 2).save(path)
    return path


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """Run a line in which STEPMASK stands for the command; returns exit code, stdout, and stderr."""
    line = line.replace("STEPMASK", f"{sys.executable} -m stepmask")
    done = subprocess.run(
        ["bash", "-c", line],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["o[b].json", "o[/b].json", "o:smile:.json", "o\\[x].json"])
def test_names_that_look_like_markup(name, run, dit_mask, tmp_path):
    output = tmp_path / name
    assert str(output) in run("export", dit_mask, "-o", output).stdout.replace("\n", "")
    assert output.exists()
    assert f"no{name}" in words(run("show", f"no{name}", code=2))
    assert "no such folder" in words(run("describe", f"no{name}", code=2))


def test_texts_of_a_mask_are_shown_as_they_are(run, mask_file, tmp_path):
    content = json.loads(mask_file.read_text())
    content["provenance"] = {"method": "[/b] \ud800 :smile:", "model": "[red]x"}
    content["scheduler"]["class"] = "[/]Scheduler"
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    shown = run("show", path).stdout.replace("\n", " ")
    assert "[/]Scheduler; method [/b] \\ud800 :smile:, model [red]x" in shown


@pytest.mark.parametrize("encoding", ["cp1252", *(pytest.param(name, marks=SLOW) for name in ("ascii", "latin-1"))])
def test_encodings_that_have_no_blocks(encoding, mask_file):
    code, shown, _ = shell(f"STEPMASK show {mask_file}", PYTHONIOENCODING=encoding)
    assert code == 0 and "#" in shown and "\\u2588" not in shown and "StepMask(4 steps" in shown


@pytest.mark.parametrize(("line", "code", "says"), [
    pytest.param("STEPMASK show {mask} >&-", 2, "cannot write what there is to say to the standard output", marks=SLOW),
    ("STEPMASK show {mask} > /dev/full", 2, "No space left on device"),
    pytest.param("STEPMASK show none.json 2>&-", 2, "", marks=SLOW),
    pytest.param("STEPMASK show none.json 2> /dev/full", 2, "", marks=SLOW),
    pytest.param("STEPMASK --help > /dev/full", 2, "No space left on device", marks=SLOW),
    ("STEPMASK show {mask} | head -c 1 > /dev/null", 0, ""),
])  # fmt: skip
def test_streams_that_are_closed_or_full(line, code, says, mask_file):
    found, _, said = shell(line.format(mask=mask_file))
    assert found == code and says in said


def test_a_file_is_written_where_nothing_can_be_said(dit_mask, tmp_path):
    output = tmp_path / "out.json"
    assert shell(f"STEPMASK export {dit_mask} -o {output} >&-")[0] == 2
    assert json.loads(output.read_text())


@pytest.mark.parametrize(("columns", "verb"), [
    ("0", "show"), pytest.param("0", "--help; STEPMASK show", marks=SLOW), pytest.param("-5", "show", marks=SLOW),
    pytest.param("many", "show", marks=SLOW),
])  # fmt: skip
def test_widths_that_are_none(columns, verb, mask_file):
    code, shown, _ = shell(f"STEPMASK {verb} {mask_file}", COLUMNS=columns)
    assert code == 0 and "StepMask(4" in shown.replace("\n", "")


def test_an_open_stream_keeps_what_it_had(dit_mask, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("old line\n")
    assert shell(f"STEPMASK export {dit_mask} -o /dev/stdout >> {log}")[0] == 0
    assert log.read_text().startswith("old line\n{")
    code, shown, _ = shell(f"STEPMASK export {dit_mask} -o /dev/stdout | cat")
    assert code == 0 and shown.startswith("{")


def test_paths_that_are_none(run, folder, dit_mask, mask_file, tmp_path):
    assert "no such folder" in words(run("describe", "x" * 5000, code=2))
    assert "cannot write" in words(run("export", dit_mask, "-o", tmp_path / ("x" * 300), code=2))
    (tmp_path / "loop").symlink_to("loop")
    for verb in (["export", dit_mask], ["learn", folder, "--steps", 4], ["sample", folder, "--mask", mask_file]):
        assert "cannot write" in words(run(*verb, "-o", tmp_path / "loop", code=2))
    assert "cannot read" in words(run("show", tmp_path / "loop", code=2))
    assert "an empty name" in words(run("show", "hub:", code=2))
    StepMask.load(mask_file)
