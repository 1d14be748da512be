"""What a search has measured survives in its file, and files that do not belong are refused and left alone."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from stepmask import StepMaskError
from stepmask.learning.end_to_end.gradients.probe import Probe
from stepmask.learning.end_to_end.measurement.measurements import Measured

IDENTITY = {"seed": 3, "config": {"rounds": 4}, "call_kwargs": ("a", "b")}


def random_probe(seed: int = 0) -> Probe:
    random = np.random.default_rng(seed)
    shapes = {"square": (2,), "linear": (3, 4, 3, 2), "projections": (3, 4, 3, 2, 1)}
    return Probe(size=12, **{name: random.normal(size=shape) for name, shape in shapes.items()})


def test_it_gives_back_what_was_kept(tmp_path):
    path, psnrs, probe = tmp_path / "state", np.array([31.5, 42.0]), random_probe()
    measured = Measured(path, IDENTITY)
    assert measured.psnrs("a") is None and measured.probe("a") is None
    measured.keep_psnrs("a", psnrs)
    measured.keep_probe("a", probe)
    measured.save()
    for again in (measured, Measured(str(path), IDENTITY)):
        assert np.array_equal(again.psnrs("a"), psnrs) and again.psnrs("b") is None and again.probe("b") is None
        for field in fields(Probe):
            assert np.array_equal(getattr(again.probe("a"), field.name), getattr(probe, field.name)), field.name
    assert [file.name for file in tmp_path.iterdir()] == ["state"], "no temporary file is left"


def test_without_a_path_it_is_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measured = Measured(None, IDENTITY)
    measured.keep_psnrs("a", [1, 2])
    measured.save()
    assert measured.psnrs("a").tolist() == [1, 2] and not list(tmp_path.iterdir())


def test_another_search_is_refused(tmp_path):
    path = tmp_path / "state"
    Measured(path, IDENTITY).save()
    content = path.read_bytes()
    with pytest.raises(StepMaskError, match=r"belongs to another search \(seed was 3, now 4\): delete it"):
        Measured(path, {**IDENTITY, "seed": 4})
    with pytest.raises(StepMaskError, match=r"\(config\.rounds was 4, now 5\)"):
        Measured(path, {**IDENTITY, "config": {"rounds": 5}})
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign"])
def test_a_damaged_file_is_refused_and_kept(tmp_path, damage):
    path = tmp_path / "state"
    if damage == "truncated":
        measured = Measured(path, IDENTITY)
        measured.keep_probe("a", random_probe())
        measured.save()
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "foreign":
        import safetensors.numpy

        safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"not a state " * 20)
    content = path.read_bytes()
    with pytest.raises(StepMaskError, match=r"is no state of an interrupted search .*delete it to begin anew"):
        Measured(path, IDENTITY)
    assert path.read_bytes() == content


def test_paths_that_cannot_be_used(tmp_path):
    with pytest.raises(StepMaskError, match="is no state of an interrupted search"):
        Measured(tmp_path, IDENTITY)
    with pytest.raises(StepMaskError, match=r"cannot write .*state"):
        Measured(tmp_path / "nowhere" / "state", IDENTITY)
    assert not list(tmp_path.iterdir())
