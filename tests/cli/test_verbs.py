"""Each verb once, on tiny random models: what it prints and what it leaves behind."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from stepmask import StepMask


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_describe_lists_sites_and_costs(run, folder, dit_folder):
    text = run("describe", folder).stdout
    assert "mid_block.attentions.0" in text and "decided by masks" in text and "%" in text
    assert "two forwards because of guidance" in run("describe", dit_folder, "--guidance-scale", 4).stdout


def test_learn_writes_a_mask_and_keeps_its_state(run, folder, tmp_path):
    file, state = tmp_path / "new" / "mask.json", tmp_path / "state.safetensors"
    options = ["--steps", 4, "--target-macs", 0.8, "--num-trajectories", 2, "--batch-size", 1, "--resume", state]
    text = run("learn", folder, "-o", file, *options).stdout
    mask = StepMask.load(file)
    assert mask.num_rows == 4 and mask.scores is not None and state.exists()
    assert f"{file}: 4 steps" in text.replace("\n", "") or "4 steps x" in text
    again = tmp_path / "again.json"
    run("learn", folder, "-o", again, *options)
    assert StepMask.load(again) == mask


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


def test_show_draws_compute_and_hold_or_the_plan(run, folder, mask_file, tmp_path):
    text = run("show", mask_file).stdout
    assert "hold" in text and "dead" not in text and "fora" in text
    text = run("show", mask_file, "--model", folder, "-o", tmp_path).stdout
    assert "dead" in text and "of the full run's MACs" in text
    assert names(tmp_path) == ["grid.png", "heatmap.png"]


def test_demo_does_it_all(run, folder, tmp_path):
    options = ["--model", folder, "--steps", 4, "--target-macs", 0.8, "--trajectories", 1, "--num-images", 2]
    text = run("demo", "-o", tmp_path, *options).stdout
    pictures = ["grid.png", "heatmap.png", "scores.png", "side_by_side.png"]
    assert names(tmp_path) == sorted(["evaluation.json", "full", "mask.json", "masked", *pictures])
    assert "speed-up, denoiser" in text and all(name in text for name in pictures)


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm++", "heun", "euler", "pndm"])
def test_masks_of_every_scheduler_are_learned_and_run(scheduler, run, folder, tmp_path):
    file = tmp_path / "mask.json"
    learning = ["--num-trajectories", 1, "--batch-size", 1, "--importance", "uniform"]
    run("learn", folder, "-o", file, "--scheduler", scheduler, "--steps", 4, "--target-macs", 0.9, *learning)
    run("sample", folder, "--mask", file, "-o", tmp_path / "images", "-n", 1)
    assert names(tmp_path / "images" / "masked") == ["010000.png"]


def test_bench_hands_over_to_the_benchmark(run, tmp_path, monkeypatch):
    fake, calls = ModuleType("stepmask.benchmark"), []
    fake.run_benchmark = lambda output, **options: calls.append((output, options)) or []
    monkeypatch.setitem(sys.modules, "stepmask.benchmark", fake)
    run("bench", "-o", tmp_path / "bench")
    run("bench", "-o", tmp_path / "bench", "--model", "one", "--steps", 20, "--steps", 50, "-n", 4, "--no-speed")
    assert (tmp_path / "bench").is_dir()
    assert calls[0] == (tmp_path / "bench", {"speed": True, "memory": True})
    chosen = {"models": ["one"], "steps": [20, 50], "num_images": 4}
    assert calls[1] == (tmp_path / "bench", {"speed": False, "memory": True, **chosen})
