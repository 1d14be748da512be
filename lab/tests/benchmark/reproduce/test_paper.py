"""What the paper prints is all there, and MACs at full size are what it prints."""

from collections import OrderedDict

import pytest
import torch

from stepmask import presets
from stepmask_lab import reference
from stepmask_lab.reproduce.full_size import full_size
from stepmask_lab.reproduce.paper import (
    CONSISTENCY,
    DEEPCACHE,
    DIFF_PRUNING,
    DIP_GO,
    FEWER,
    FORA,
    L2C,
    MASKING,
    ORIGINAL,
    TABLE4,
    TABLE5,
    TABLES,
    agrees,
)

MODELS = [model for models in TABLES.values() for model in models]
METHODS = {
    "DDPM, CIFAR-10 32": [ORIGINAL, DIFF_PRUNING, CONSISTENCY, DEEPCACHE, MASKING],
    "DDPM, LSUN-Bedroom 256": [ORIGINAL, DIFF_PRUNING, DEEPCACHE, MASKING],
    "DDPM, LSUN-Churches 256": [ORIGINAL, DIFF_PRUNING, DEEPCACHE, MASKING],
    "LDM-4-G, ImageNet 256": [ORIGINAL, DIFF_PRUNING, DEEPCACHE, MASKING],
    "DiT-XL/2, ImageNet 256": [ORIGINAL, DIP_GO, L2C, FORA, MASKING],
    "DiT-XL/2, ImageNet 512": [ORIGINAL, L2C, FORA, MASKING],
    "PixArt-Sigma-XL, COCO 1024": [ORIGINAL, FEWER, "DiTFastAttn", MASKING],
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_line_is_there_and_complete(model):
    assert [row.method for row in model.rows] == METHODS[model.name]
    assert model.preset in presets.names() and model.reference in (None, *reference.names())
    assert all(row.speedup >= 1 and "FID" in row.quality for row in model.rows)
    without = {FORA, CONSISTENCY, "DiTFastAttn"}
    assert all((row.macs is None) == (row.method in without) for row in model.rows)
    assert model.row(ORIGINAL).speedup == 1 and model.row(MASKING).train_hours > 0
    assert model.share == pytest.approx(model.row(MASKING).macs / model.row(ORIGINAL).macs, abs=1e-3)


def test_each_reference_model_stands_for_one_model():
    assert sorted(model.reference for model in MODELS if model.reference) == list(reference.OF_TABLES)


def test_ablations():
    assert [(line.speedup, line.fid) for line in TABLE4] == [(1.63, 4.66), (1.29, 4.67)]
    assert [(line.speedup, line.fid) for line in TABLE5] == [(1.63, 4.66), (1.49, 4.66), (1.62, 4.74), (1.63, 4.72)]
    masking = TABLES["table1"][0].row(MASKING)
    assert {(line.speedup, line.fid) for line in (TABLE4[0], TABLE5[0])} == {(masking.speedup, masking.quality["FID"])}


def test_agreement_is_half_a_percent_or_the_same_digits():
    assert agrees(24.82, 24.9) and not agrees(24.7, 24.9)
    assert agrees(0.6054, 0.61) and not agrees(0.6049, 0.61)


LARGER = ("DiT-XL/2, ImageNet 512", "PixArt-Sigma-XL, COCO 1024", "DDPM, LSUN-Bedroom 256")


@pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=pytest.mark.slow if model.name in LARGER else []) for model in MODELS],
    ids=lambda model: model.name,
)
def test_macs_of_the_originals_are_those_of_the_paper(model):
    rows = {row["method"]: row for row in full_size(model)}
    ours, printed = rows[ORIGINAL]["macs"], model.row(ORIGINAL).macs
    assert abs(ours / printed - 1) <= 0.005 or f"{ours:.2f}" == str(printed)
    assert rows[ORIGINAL]["steps"] == model.steps and rows[ORIGINAL]["agrees"]
    assert rows[ORIGINAL][{"full": "full", "conv+lin": "conv_linear"}[model.convention]] == ours
    assert set(rows) == {ORIGINAL} | {FEWER, DEEPCACHE, FORA, DIFF_PRUNING} & {row.method for row in model.rows}
    assert all(row["macs"] <= row["dead_only"] <= ours and row["conv_linear"] <= row["full"] for row in rows.values())


def test_macs_of_schedules_are_those_of_the_paper():
    deep = {model.name: row for model in MODELS for row in full_size(model) if row["method"] == DEEPCACHE}
    assert len(deep) == 4 and all(row["agrees"] for row in deep.values())
    assert deep["DDPM, CIFAR-10 32"]["dead_only"] == pytest.approx(0.3485, abs=1e-4)
    assert deep["LDM-4-G, ImageNet 256"]["macs"] == pytest.approx(9.115, abs=1e-3)
    fewer = full_size(TABLES["table3"][0])[1]
    assert fewer["steps"] == 38 and fewer["macs"] == pytest.approx(81.9, abs=0.05) and fewer["agrees"]


def test_macs_of_pruned_models_are_those_of_the_paper():
    pruned = {model.name: row for model in MODELS for row in full_size(model) if row["method"] == DIFF_PRUNING}
    assert {name: row["agrees"] for name, row in pruned.items()} == {
        "DDPM, CIFAR-10 32": True, "DDPM, LSUN-Bedroom 256": True, "DDPM, LSUN-Churches 256": True,
        "LDM-4-G, ImageNet 256": False,
    }  # fmt: skip
    assert pruned["DDPM, CIFAR-10 32"]["macs"] == pytest.approx(0.3394, abs=1e-4)
    assert pruned["LDM-4-G, ImageNet 256"]["macs"] == pytest.approx(13.2, rel=0.02), "transformers are pruned otherwise"


def test_shares_are_of_the_originals_at_as_many_steps():
    dit = TABLES["table2"][1]
    assert dit.share == pytest.approx(6.7 / 11.9, abs=1e-3)
    assert dit.share_of(DIP_GO) == pytest.approx(7.4 / (11.9 * 2.5), abs=1e-3), "at 250 steps"


def test_a_router_brings_its_own_steps(tmp_path):
    path = tmp_path / "router.pt"
    logits = [torch.full((56,), -9.0 if step % 2 == 0 else 9.0) for step in range(4)]
    content = OrderedDict((f"{step}.prob", one) for step, one in enumerate(logits))
    torch.save({"routers": content}, path)
    _, dit, larger = TABLES["table2"]
    row = full_size(dit, path)[-1]
    assert row["method"] == L2C and row["steps"] == 4 and row["paper"] is None, "the paper has 100 steps"
    whole = full_size(dit)[0]["macs"] / dit.steps * 4
    assert row["macs"] / whole == pytest.approx(0.5, abs=0.01), "every second of four steps rests"
    assert L2C not in [row["method"] for row in full_size(larger, path)], "routers are for 256 pixels"
