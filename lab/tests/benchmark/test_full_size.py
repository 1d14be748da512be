"""Speeds of full-size models, tried with tiny ones, so that they work the first time on an accelerator."""

import json

import pytest
import torch

import stepmask
from stepmask_lab.benchmark import full_size
from stepmask_lab.benchmark.full_size import Subject, Way, measured, page
from tiny import tiny_model

EAGERLY = Way("compiled", {"fullgraph": True, "backend": "eager"})
FEW = {"batches": (1, 2), "steps": 8, "rounds": 2}


def tiny(name, class_name):
    model = tiny_model(class_name)
    return Subject(name, model, full_size.architecture_of(model).example_inputs(model))


SUBJECTS = {
    name: lambda name=name, class_name=class_name: tiny(name, class_name)
    for name, class_name in (
        ("dit", "DiTTransformer2DModel"), ("pixart", "PixArtTransformer2DModel"), ("sdxl", "UNet2DConditionModel"),
        ("flux", "FluxTransformer2DModel"),
    )
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["dit", *(pytest.param(name, marks=pytest.mark.slow) for name in SUBJECTS if name != "dit")]
)
def test_every_model_is_measured(name):
    found = measured([SUBJECTS[name]], ways=(Way("eager"),), **FEW, tell=lambda line: None)
    assert len(found["rows"]) == 2 * 2 * 2
    for row in found["rows"]:
        assert 0 < row["share"] < 10 and row["macs"] <= row["budget"] and len(row["shares"]) == 2, row
    assert page(json.loads(json.dumps(found))).count(f"| {name} |") == len(found["rows"])


@pytest.mark.slow
def test_compiled_blocks():
    """They are measured, or the row says why not; nothing lasts."""
    subject = SUBJECTS["dit"]()
    options = {"ways": (EAGERLY,), "batches": (1,), "budgets": (0.5,), "steps": 8, "rounds": 2}
    rows = list(full_size.rows_of(subject, full_size.Clock(1), **options))
    assert len(rows) == 2 and all({"share", "refused"} & set(row) for row in rows)
    assert all(module._compiled_call_impl is None for module in subject.model.modules())
    assert not stepmask.runtime.apply.is_applied(subject.model)


def test_what_is_slow_is_measured_once_with_fewer_steps(monkeypatch):
    monkeypatch.setattr(full_size, "SLOW", 1e-9)
    monkeypatch.setattr(full_size, "FEWEST_STEPS", 7)
    rows = list(full_size.rows_of(SUBJECTS["dit"](), full_size.Clock(1), ways=(Way("eager"),), **FEW))
    assert [row["steps"] for row in rows] == [7] * len(rows)
    measured = [row for row in rows if "share" in row]
    assert [row["batch"] for row in measured] == [1, 2] and all(len(row["shares"]) == 2 for row in measured)
    assert all("takes" in row["skipped"] for row in rows if row not in measured)


def test_what_breaks_is_a_row(monkeypatch):
    subject = SUBJECTS["dit"]()
    subject.model.register_forward_pre_hook(lambda *_: 1 / 0)
    rows = list(full_size.rows_of(subject, full_size.Clock(1), ways=(Way("eager"),), **FEW))
    assert all(row["skipped"] == "ZeroDivisionError: division by zero" for row in rows) and len(rows) == 8


def test_when_the_minutes_are_over():
    found = measured([SUBJECTS["dit"]], minutes=0.0, ways=(Way("eager"),), **FEW, tell=lambda line: None)
    assert all(row["skipped"] for row in found["rows"]) and "minutes" in page(found)


def test_models_are_built_with_weights(monkeypatch):
    subject = full_size.load("ddpm-cifar10-32", torch.device("cpu"), torch.float32)
    weight = next(subject.model.parameters())
    assert weight.device.type == "cpu" and 0.01 < weight.std() < 0.03
    assert subject.model(**subject.inputs).sample.isfinite().all()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["full_size"])
    with pytest.raises(SystemExit):
        full_size.main()
    assert "no accelerator" in capsys.readouterr().out
