"""Masks in other settings: what is measured there, and that a stopped run goes on."""

import json

import pytest
from diffusers import DPMSolverMultistepScheduler

from stepmask_lab import reference
from stepmask_lab.benchmark import transfer
from stepmask_lab.benchmark.methods import with_dpm
from stepmask_lab.benchmark.transfer import Variation, run_transfer, variations
from stepmask_lab.pages import transfer_table
from tiny import FEWEST, ddim_pipeline, dit_pipeline

MODELS = {"a-dit": dit_pipeline, "a-unet": ddim_pipeline}


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    monkeypatch.setattr(reference, "load", lambda name, dtype=None: MODELS[name]())
    monkeypatch.setattr(transfer, "QUICK", {"rounds": 0, **FEWEST})
    monkeypatch.setattr(transfer, "REFINING", {"rounds": 1, **FEWEST})


def test_settings_suit_the_model():
    names = {model: [variation.name for variation in variations(make())] for model, make in MODELS.items()}
    common = ["10 steps", "DPM-Solver++", "bfloat16"]
    assert names["a-unet"] == [*common, "48 x 48 pixels", "50 steps"]
    assert names["a-dit"] == [*common, "guidance 1.5", "guidance 5", "other classes", "LoRA", "50 steps"]


@pytest.mark.parametrize("model", MODELS)
def test_every_change_is_one(model):
    """Each setting makes another image than the model as it is."""
    import torch

    for variation in variations(MODELS[model]()):
        if variation.conditions is not None:
            continue
        images = []
        for one in (variation, Variation("base")):
            pipe = one.change(MODELS[model]())
            inputs = one.call_kwargs(pipe) | ({"class_labels": [3]} if model == "a-dit" else {})
            steps, noise = one.steps // 5, torch.Generator().manual_seed(0)
            images.append(pipe(num_inference_steps=steps, generator=noise, output_type="pt", **inputs).images.float())
        assert images[0].shape != images[1].shape or not torch.equal(*images), variation.name


def test_another_sampler_leaves_the_pipeline_alone():
    for make in MODELS.values():
        pipe = make()
        pipe.labels = {"cat": 3}
        before, config = pipe.scheduler, dict(pipe.config)
        changed = with_dpm(pipe)
        assert isinstance(changed.scheduler, DPMSolverMultistepScheduler)
        assert pipe.scheduler is before and dict(pipe.config) == config
        if type(changed) is type(pipe):
            assert changed.labels == {"cat": 3}, "classes keep their names"


def test_rows_and_going_on(tmp_path, monkeypatch):
    def few(pipe):
        yield Variation("6 steps, other sampler", steps=6, change=with_dpm)
        yield Variation("other classes", steps=4, conditions=(5, 6), learned_on=(1, 2))

    monkeypatch.setattr(transfer, "variations", few)
    monkeypatch.setattr(transfer, "STEPS", 4)  # of what is taken over
    learn, learned = transfer.learn, []

    def counting(pipe, steps, target, **options):
        learned.append((type(pipe.scheduler), steps, options["conditions"], "start" in options))
        return learn(pipe, steps, target, **options)

    monkeypatch.setattr(transfer, "learn", counting)
    rows = run_transfer(tmp_path, "a-dit", num_images=2)
    assert [row["setting"] for row in rows] == ["6 steps, other sampler", "other classes"]
    assert [told for _, *told in learned] == [
        [4, None, False],
        [6, None, False],
        [6, None, True],
        [4, (1, 2), False],
        [4, (5, 6), False],
        [4, (5, 6), True],
    ]
    assert learned[1][0] is learned[2][0] is DPMSolverMultistepScheduler
    for row in rows:
        assert max(row["macs_here"], row["macs_refined"]) <= row["macs"] + 2e-9
        assert row["macs_taken_over"] == pytest.approx(row["macs"])
        assert all(0 < row[f"psnr_{label}"] <= 100 for label in ("here", "taken_over", "refined", "schedule"))
        assert 0 < row["calls_refined"] and 0 < row["calls_here"]
    monkeypatch.setattr(transfer, "learn", lambda *args, **kwargs: pytest.fail("learned again"))
    assert run_transfer(tmp_path, "a-dit", num_images=2) == rows
    result = json.loads((tmp_path / "transfer-a-dit.json").read_text())
    assert result["rows"] == rows and result["circumstances"]["num_images"] == 2
    table = transfer_table([result]).splitlines()
    assert len(table) == 2 + len(rows) and table[2].startswith("| a-dit | 6 steps, other sampler | 0.")
    older = [{k: v for k, v in row.items() if not k.startswith("calls") and "refined" not in k} for row in rows]
    assert transfer_table([{**result, "rows": older}]).splitlines()[2].split(" | ")[5] == "–"
