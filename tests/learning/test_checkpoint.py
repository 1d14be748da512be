"""One format for the state of every way to learn: whole or not at all, refused where it does not belong."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from jobs import Stop, stop_after
from refusal import check_refused
from stepmask import StepMaskError, TargetError, learn
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.effort import Effort
from tiny import FEW, dit_pipeline

IDENTITY = {"seed": 3, "config": {"rounds": 4, "shrink": 0.1}, "call_kwargs": {"labels": [1, 2]}}
METHODS = {"end-to-end": {"rounds": 0, **FEW}, "paper": {"num_trajectories": 2, "batch_size": 1}}


def names(folder) -> list[str]:
    return [path.name for path in folder.iterdir()]


def opened(path, identity=IDENTITY, effort: Effort | None = None) -> Checkpoint:
    return Checkpoint(path, identity, effort or Effort())


def test_arrays_values_and_effort_come_back(tmp_path):
    effort = Effort()
    effort.go_on_from({"denoiser_calls": 7, "seconds": 50.0})
    first = opened(tmp_path / "state", effort=effort)
    assert not first.resumed and (tmp_path / "state").exists(), "said early if it cannot be written"
    first.arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(3)}
    first.values = {"done": 2, "measured": {"ff": [1.5, None]}}
    first.save()
    later = Effort()
    again = opened(str(tmp_path / "state"), {**IDENTITY, "call_kwargs": {"labels": (1, 2)}}, later)
    assert again.resumed and again.values == first.values
    assert again.arrays.keys() == {"a", "b"} and np.array_equal(again.arrays["a"], first.arrays["a"])
    assert again.arrays["b"].item() == 3 and later.facts()["denoiser_calls"] == 7 and later.facts()["seconds"] >= 50
    assert names(tmp_path) == ["state"], "no temporary file is left"


def test_without_a_path_it_is_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory = opened(None)
    memory.arrays["a"] = np.ones(2)
    memory.save()
    assert not memory.resumed and memory.arrays["a"].sum() == 2 and not names(tmp_path)


@pytest.mark.parametrize(("now", "says"), [
    ({"seed": 4}, r"\(seed was 3, now 4\)"),
    ({"config": {"rounds": 5, "shrink": 0.1}}, r"\(config\.rounds was 4, now 5\)"),
    ({"config": {"rounds": 4}}, r"config\.shrink was 0\.1, now None"),
    (
        {"call_kwargs": {"labels": [1, 3]}, "seed": 4},
        r"call_kwargs\.labels was \[1, 2\], now \[1, 3\]; seed was 3, now 4",
    ),
    ({"start": ["ab"]}, r"start was None, now \['ab'\]"),
])  # fmt: skip
def test_the_state_of_another_run_is_refused_and_kept(now, says, tmp_path):
    path = tmp_path / "state"
    opened(path)
    content = path.read_bytes()
    check_refused(
        rf"^\S*state belongs to another run .*{says}.*: delete it to begin", opened, path, {**IDENTITY, **now}
    )
    assert path.read_bytes() == content


def damaged(path, how: str) -> bytes:
    """Leaves a file that is no checkpoint."""
    if how == "truncated":
        state = opened(path)
        state.arrays["a"] = np.ones(100)
        state.save()
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "foreign":
        safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    elif how == "other values":
        entries = {"stepmask_checkpoint": json.dumps(IDENTITY), "values": "{}", "effort": "[]"}
        safetensors.numpy.save_file({"weight": np.zeros(3)}, path, entries)
    elif how == "no identity":
        entries = {"stepmask_checkpoint": "3", "values": "{}", "effort": '{"denoiser_calls": 1, "seconds": 1}'}
        safetensors.numpy.save_file({"weight": np.zeros(3)}, path, entries)
    else:
        path.write_bytes(b"" if how == "empty" else b"not a state " * 20)
    return path.read_bytes()


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "foreign", "other values", "no identity"])
def test_a_damaged_file_is_refused_and_kept(how, tmp_path):
    content = damaged(tmp_path / "state", how)
    check_refused(r"is no state of an interrupted run .*: delete it to begin anew", opened, tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == content


def test_no_bit_of_a_state_may_change(tmp_path):
    """Else learning would go on to another mask in silence."""
    path = tmp_path / "state"
    state = opened(path)
    state.arrays["a"], state.values["b"] = np.arange(9.0), [1, 2]
    state.save()
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for place in (*range(8, header, 7), *range(header, len(content), 5)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        check_refused("is no state of an interrupted run|belongs to another run", opened, path)
    path.write_bytes(content)
    assert opened(path).values == {"b": [1, 2]}


def test_paths_that_cannot_be_used(tmp_path):
    check_refused("is no state of an interrupted run", opened, tmp_path)
    check_refused(r"cannot write .*state.*choose a file in a folder", opened, tmp_path / "nowhere" / "state")
    assert not names(tmp_path)


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    state = opened(tmp_path / "state")
    content = (tmp_path / "state").read_bytes()
    state.arrays["a"] = np.ones(1000)

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StepMaskError, match="No space left"):
        patch.setattr(os, "replace", full)
        state.save()
    assert (tmp_path / "state").read_bytes() == content and names(tmp_path) == ["state"]
    state.save()
    assert opened(tmp_path / "state").arrays["a"].sum() == 1000


# --- in learning


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_learn_writes_the_one_format(method, tmp_path):
    path, options = tmp_path / "state", {"method": method, "progress": False, **METHODS[method]}
    with pytest.raises(Stop):
        learn(dit_pipeline(), 4, 0.7, resume=path, callback=stop_after(1), **options)
    with safe_open(path, framework="np") as file:
        entries = {name: json.loads(text) for name, text in file.metadata().items()}
    assert entries.keys() == {"stepmask_checkpoint", "values", "effort", "checksum"}
    assert entries["effort"]["denoiser_calls"] > 0
    identity = entries["stepmask_checkpoint"]
    assert identity["method"] == method and identity["goals"] == {"target_macs": 0.7} and identity["seed"] == 0
    assert identity["num_inference_steps"] == 4 and {"config", "scheduler", "graph", "weights"} <= identity.keys()
    mask = learn(dit_pipeline(), 4, 0.7, resume=path, **options)
    assert mask == learn(dit_pipeline(), 4, 0.7, **options)
    assert mask.provenance["denoiser_calls"] >= entries["effort"]["denoiser_calls"]
    assert names(tmp_path) == ["state"]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_refused_leaves_nothing_behind(method, tmp_path):
    options = {"method": method, "progress": False, "resume": tmp_path / "state", **METHODS[method]}
    check_refused("cannot be reached", learn, dit_pipeline(), 4, 0.01, **options, error=TargetError)
    check_refused(r"there is no class|class", learn, dit_pipeline(), 4, 0.7, conditions=[5000], **options)
    assert not names(tmp_path)
    seen = []
    with pytest.raises(StepMaskError, match="cannot write"):
        learn(dit_pipeline(), 4, 0.7, callback=seen.append, **{**options, "resume": tmp_path / "nowhere" / "state"})
    assert not seen and not names(tmp_path)
