"""Each verb once, on tiny random models: what it prints and what it leaves behind."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from PIL import Image

import stepmask
from stepmask import MaskFamily, StepMask, StepMaskError, describe, make_plan, measure_cost
from stepmask.learning import GlobalConfig, LearnConfig
from tiny import ddim_pipeline


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_describe_lists_sites_and_costs(run, folder, dit_folder):
    text = run("describe", folder).stdout
    assert "mid_block.attentions.0" in text and "decided by masks" in text and "%" in text
    assert "2 forwards because of guidance" in run("describe", dit_folder, "--guidance-scale", 4).stdout


def test_learn_writes_a_mask_and_keeps_its_state(run, folder, quick, tmp_path):
    file, state = tmp_path / "new" / "mask.json", tmp_path / "state.safetensors"
    options = [*quick, "--target-macs", 0.8, "--max-cache-mib", 1, "--resume", state]
    text = run("learn", folder, "-o", file, *options).stdout
    mask, again = StepMask.load(file), tmp_path / "again.json"
    assert mask.num_rows == 4 and mask.provenance["method"] == "global" and state.exists()
    assert mask.provenance["asked"] == {"target_macs": 0.8, "max_cache_bytes": 2**20}
    psnr, (low, high) = mask.provenance["psnr"]["mean"], mask.provenance["psnr"]["confidence_95"]
    assert f"{file}: 4 steps x 19 sites\nasked for 80.0% of the MACs, at most 1 MiB of cache per image\n" in text
    assert f"reached {mask.provenance['macs']:.1%} of the MACs, PSNR {psnr:.1f} dB" in text
    assert f"(95% confidence {low:.1f} to {high:.1f}) on 2 held-back images" in text
    assert f"{mask.provenance['cache_bytes_per_image'] / 1024:.3g} KiB of cache per image" in text
    run("learn", folder, "-o", again, *options)
    assert StepMask.load(again) == mask


def test_learn_passes_knobs_on(run, folder, quick, tmp_path):
    run("learn", folder, "-o", tmp_path / "mask.json", *quick, "--target-macs", 0.9, "--no-forecast", "--shrink", 0.2)
    mask = StepMask.load(tmp_path / "mask.json")
    given = {"rounds": 1, "num_probes": 1, "forecast": False, "shrink": 0.2, "slack": GlobalConfig().slack}
    assert mask.is_binary and given.items() <= mask.provenance["config"].items()


def test_learn_starts_from_masks_and_families(run, folder, quick, tmp_path):
    pipe = ddim_pipeline()
    stepmask.schedules.fora(pipe, 4, 2).save(tmp_path / "fora.json")
    run("learn", folder, "-o", tmp_path / "family.json", *quick, "--targets", "0.8,0.6")
    files = ["--start", tmp_path / "fora.json", "--start", tmp_path / "family.json"]
    run("learn", folder, "-o", tmp_path / "mask.json", *quick, "--target-macs", 0.8, *files)
    number = 1 + len(MaskFamily.load(tmp_path / "family.json"))
    assert StepMask.load(tmp_path / "mask.json").provenance["started_from_masks"] == number


@pytest.mark.parametrize(
    ("options", "target", "cache"),
    [([], "default", None), (["--max-cache-mib", 0.5], "default", 2**19), (["--target-macs", 0.3], 0.3, None)],
)
def test_target_that_learn_gets(options, target, cache, run, folder, tmp_path, monkeypatch):
    default, got = inspect.signature(stepmask.learn).parameters["target_macs"].default, {}

    def learn(pipe, **arguments):
        got.update(arguments)
        raise StepMaskError("enough")

    monkeypatch.setattr(stepmask, "learn", learn, raising=False)
    run("learn", folder, "-o", tmp_path / "mask.json", *options, code=2)
    assert got["target_macs"] == (default if target == "default" else target)
    assert got.get("max_cache_bytes") == cache and not {"target_speedup", "min_psnr"} & got.keys()


@pytest.mark.parametrize(("method", "rate"), [("per-step", LearnConfig()), ("paper", LearnConfig.paper())])
def test_learn_by_the_error_of_single_steps(method, rate, run, folder, tmp_path):
    file, state = tmp_path / "mask.json", tmp_path / "state.safetensors"
    few = ["--steps", 4, "--num-trajectories", 2, "--batch-size", 1]
    text = run("learn", folder, "-o", file, "--method", method, *few, "--target-macs", 0.8, "--resume", state).stdout
    mask = StepMask.load(file)
    assert mask.scores is not None and state.exists() and mask.provenance["macs"] <= 0.8
    assert mask.provenance["config"]["num_trajectories"] == 2
    assert mask.provenance["config"]["learning_rate"] == rate.learning_rate, "not given: the default of the method"
    assert f"reached {mask.provenance['macs']:.1%} of the MACs, PSNR not measured" in text


def test_learn_for_a_speed(run, folder, quick, tmp_path):
    file = tmp_path / "mask.json"
    text = run("learn", folder, "-o", file, *quick, "--target-speedup", 1.1).stdout
    record = StepMask.load(file).provenance
    assert record["asked"] == {"target_speedup": 1.1} and record["cost"] <= 1 / 1.1
    assert "asked for 1.1 times the speed" in text and f"{1 / record['cost']:.2f} times the speed" in text


def test_learn_for_a_psnr(run, folder, quick, tmp_path):
    file = tmp_path / "mask.json"
    text = run("learn", folder, "-o", file, *quick, "--min-psnr", 15).stdout
    record = StepMask.load(file).provenance
    assert record["asked"] == {"min_psnr": 15.0} and record["psnr"]["mean"] >= 15
    assert "asked for a PSNR of 15 dB" in text


def test_learn_a_family(run, folder, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = run("learn", folder, *quick, "--targets", "0.9, 0.7").stdout
    family = MaskFamily.load(tmp_path / "family.json")
    assert family.members[0].macs <= 0.9 and family.members[-1].macs <= 0.7
    assert f"family.json: {len(family)} masks of 4 steps x 19 sites\nasked for 90%, 70% of the MACs\n" in text
    for member in family:
        assert f"│ {member.macs:.1%} │ {member.psnr:.1f} dB │" in text
    assert "on 2 held-back images" in text


def test_at_picks_from_a_family(run, folder, family_file, tmp_path):
    chosen = MaskFamily.load(family_file).members[1]
    assert "interval 2" in run("show", family_file, "--at", 0.6).stdout
    assert "interval 3" in run("show", family_file, "--at", 0.4).stdout
    run("sample", folder, "--mask", family_file, "--at", 0.6, "-o", tmp_path, "-n", 2, "--no-compare")
    run("sample", folder, "--mask", family_file, "--at", 0.4, "-o", tmp_path / "less", "-n", 2, "--no-compare")
    one, other = (np.asarray(Image.open(where / "masked" / "010000.png")) for where in (tmp_path, tmp_path / "less"))
    assert (one != other).any()
    result = tmp_path / "result.json"
    run("evaluate", folder, "--mask", family_file, "--at", 0.6, "-n", 2, "--no-speed", "--json", result)
    plan = make_plan(chosen.mask, describe(ddim_pipeline()))
    assert json.loads(result.read_text())["macs_fraction"] == pytest.approx(
        measure_cost(ddim_pipeline()).fraction(plan)
    )


def test_sample_writes_both_runs_side_by_side(run, folder, mask_file, tmp_path):
    run("sample", folder, "--mask", mask_file, "-o", tmp_path / "out", "-n", 3, "--batch-size", 2)
    out = tmp_path / "out"
    assert names(out) == ["full", "masked", "side_by_side.png"]
    assert names(out / "masked") == names(out / "full") == ["010000.png", "010001.png", "010002.png"]
    full, masked = (np.asarray(Image.open(out / kind / "010000.png")) for kind in ("full", "masked"))
    assert full.shape == masked.shape and (full != masked).any()


def test_sample_without_comparison(run, folder, mask_file, tmp_path):
    run("sample", folder, "--mask", mask_file, "-o", tmp_path, "-n", 1, "--first-seed", 5, "--no-compare")
    assert names(tmp_path) == ["masked"] and names(tmp_path / "masked") == ["000005.png"]


def test_evaluate_prints_a_table_and_writes_json(run, folder, mask_file, tmp_path):
    file = tmp_path / "result.json"
    text = run("evaluate", folder, "--mask", mask_file, "--json", file, "-n", 2, "--batch-size", 2, "--pairs", 1).stdout
    content = json.loads(file.read_text())
    assert f"{content['psnr']['mean']:.2f} dB" in text and content["seeds"] == [10_000, 10_001]
    assert content["speed"]["pairs"] == 1 and content["speed"]["batch_size"] == 2


def test_evaluate_scores_the_images_too(run, folder, mask_file, tmp_path, monkeypatch):
    monkeypatch.setattr("stepmask_lab.benchmark.metrics_by_name.BOOTSTRAP", 3)
    file = tmp_path / "result.json"
    given = ("evaluate", folder, "--mask", mask_file, "--no-speed", "-n", 8)
    text = run(*given, "--metrics", "cifar", "--json", file).stdout
    scores = json.loads(file.read_text())["scores"]
    assert list(scores) == ["fd_cifar", "sfd_cifar", "is_cifar", "recall_cifar", "kid_cifar"]
    for name, score in scores.items():
        assert f"{name} " in text and f"{score['value']:.4g}" in text and score["num_images"] == 8
        assert score["low"] <= score["value"] <= score["high"] and score["change"]["low"] <= score["change"]["high"]
    text = " ".join(run(*given, "--metrics", "cifar,lips", code=2).stderr.split())
    assert "no metric 'lips'; there are lpips, clip, fid" in text
    text = " ".join(run(*given, "--real", mask_file, code=2).stderr.split())
    assert "ask for them with --metrics fid,kid" in text


def test_show_draws_compute_and_hold_or_the_plan(run, folder, mask_file, tmp_path):
    text = run("show", mask_file).stdout
    assert "hold" in text and "dead" not in text and "fora" in text
    text = run("show", mask_file, "--model", folder, "-o", tmp_path).stdout
    assert "dead" in text and "of the full run's MACs" in text
    assert names(tmp_path) == ["grid.png", "heatmap.png"]


@pytest.mark.parametrize(
    "scheduler", ["ddim", "ddpm", "dpm++", "heun", "euler", pytest.param("pndm", marks=pytest.mark.slow)]
)
def test_masks_of_every_scheduler_are_learned_and_run(scheduler, run, folder, quick, tmp_path):
    file = tmp_path / "mask.json"
    run("learn", folder, "-o", file, "--scheduler", scheduler, "--target-macs", 0.9, *quick)
    run("sample", folder, "--mask", file, "-o", tmp_path / "images", "-n", 1)
    assert names(tmp_path / "images" / "masked") == ["010000.png"]
