"""Each verb once, on tiny random models: what it prints and what it leaves behind."""

import importlib.util
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import stepmask
from command_line import words
from stepmask import MaskFamily, Recipe, Resolution, StepMask, describe, make_plan, measure_cost, schedules
from stepmask.cli.common.arguments import Scheduler
from stepmask.cli.common.models import load
from stepmask.cli.common.provenance import asked, reached
from stepmask.frontier import WAYS, Frontier, Point
from stepmask.learning import EndToEnd, Paper
from stepmask.runtime import elsewhere
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
    assert mask.num_rows == 4 and mask.provenance["method"] == "end-to-end" and state.exists()
    assert mask.provenance["asked"] == {"target_macs": 0.8, "max_cache_bytes": 2**20}
    psnr, (low, high) = mask.provenance["psnr"]["mean"], mask.provenance["psnr"]["confidence_95"]
    assert f"{file}: 4 steps x 27 sites\nasked for 80.0% of the MACs, at most 1 MiB of cache per image\n" in text
    assert f"reached {mask.provenance['macs']:.1%} of the MACs, PSNR {psnr:.1f} dB" in text
    assert f"(95% confidence {low:.1f} to {high:.1f}) on 2 held-back images" in text
    assert f"{mask.provenance['cache_bytes_per_image'] / 1024:.3g} KiB of cache per image" in text
    run("learn", folder, "-o", again, *options)
    assert StepMask.load(again) == mask


@pytest.fixture
def learn_called(monkeypatch, mask_file):
    """What the verb passes to `stepmask.learn`; nothing is learned."""
    got = {}

    def learn(pipe, **arguments):
        got.update(arguments, scheduler=type(pipe.scheduler).__name__)
        return StepMask.load(mask_file)

    monkeypatch.setattr(stepmask, "learn", learn, raising=False)
    return got


@pytest.mark.parametrize(("options", "called"), [
    ([], {"target_macs": 0.6, "num_inference_steps": 50, "seed": 0, "scheduler": "DDIMScheduler"}),
    (["--max-cache-mib", 0.5], {"target_macs": 0.6, "max_cache_bytes": 2**19}),
    (["--max-minutes", 2.5], {"target_macs": 0.6, "max_minutes": 2.5}),
    (["--target-macs", 0.3, "--steps", 4, "--seed", 7], {"target_macs": 0.3, "num_inference_steps": 4, "seed": 7}),
    (["--target-speedup", 1.1], {"target_speedup": 1.1}),
    (
        ["--target-macs", 0.7, "--target-speedup", 1.1, "--speed-batch-size", 2],
        {"target_macs": 0.7, "target_speedup": 1.1, "method": EndToEnd(speed_batch_size=2)},
    ),
    (["--min-psnr", 15, "--scheduler", "heun"], {"min_psnr": 15.0, "scheduler": "HeunDiscreteScheduler"}),
    (
        ["--rounds", 1, "--no-forecast", "--shrink", 0.2],
        {"target_macs": 0.6, "method": EndToEnd(rounds=1, forecast=False, shrink=0.2)},
    ),
    (["--method", "paper", "--batch-size", 2], {"target_macs": 0.6, "method": Paper(batch_size=2)}),
])  # fmt: skip
def test_what_learn_is_asked_for(options, called, run, folder, learn_called, tmp_path):
    run("learn", folder, "-o", tmp_path / "mask.json", *options)
    assert called.items() <= learn_called.items()
    goals = {"target_macs", "target_speedup", "min_psnr", "max_cache_bytes", "max_minutes"}
    assert goals & called.keys() == {name for name in goals if learn_called.get(name) is not None}


def test_learn_starts_from_masks_and_families(run, folder, mask_file, family_file, learn_called, tmp_path):
    run("learn", folder, "-o", tmp_path / "mask.json", "--start", mask_file, "--start", family_file)
    assert len(learn_called["start"]) == 1 + len(MaskFamily.load(family_file))


def test_learn_by_the_error_of_single_steps(run, folder, tmp_path):
    file, state = tmp_path / "mask.json", tmp_path / "state.safetensors"
    few = ["--steps", 4, "--num-trajectories", 2, "--batch-size", 1]
    text = run("learn", folder, "-o", file, "--method", "paper", *few, "--target-macs", 0.8, "--resume", state).stdout
    mask = StepMask.load(file)
    assert mask.scores is not None and state.exists() and mask.provenance["macs"] <= 0.8
    assert f"reached {mask.provenance['macs']:.1%} of the MACs, PSNR not measured" in text


@pytest.mark.parametrize(("record", "wanted", "got"), [
    (
        {"asked": {"target_speedup": 1.1}, "macs": 0.8, "latency": {"share": 0.5, "batch_size": 1}},
        "1.1 times the speed",
        "80.0% of the MACs, 2.00 times the speed of the denoiser by the latencies of its sites for 1 image at once, "
        "PSNR not measured",
    ),
    (
        {
            "asked": {"target_macs": 0.8, "target_speedup": 1.1},
            "macs": 0.7,
            "latency": {"share": 0.8, "batch_size": 16},
        },
        "80.0% of the MACs, 1.1 times the speed",
        "70.0% of the MACs, 1.25 times the speed of the denoiser by the latencies of its sites for 16 images at once, ",
    ),
    (
        {"asked": {"min_psnr": 15.0}, "macs": 0.7, "psnr": {"mean": 20, "held_back_images": 3}},
        "a PSNR of 15 dB",
        "70.0% of the MACs, PSNR 20.0 dB on 3 held-back images",
    ),
    (
        {
            "asked": {"target_macs": 0.8, "max_minutes": 5},
            "macs": 0.7,
            "psnr": {"mean": 20, "held_back_images": 3},
        },
        "80.0% of the MACs, at most 5 minutes of learning",
        "70.0% of the MACs, PSNR 20.0 dB on 3 held-back images, and none that was tried and costs more came closer",
    ),
    (
        {"asked": {"targets": [0.9, 0.7], "max_cache_bytes": 2**20}, "macs": 0.7, "cache_bytes_per_image": 2048},
        "90%, 70% of the MACs, at most 1 MiB of cache per image",
        "70.0% of the MACs, PSNR not measured (stepmask evaluate does), 2 KiB of cache per image",
    ),
])  # fmt: skip
def test_what_was_asked_for_and_reached_in_words(record, wanted, got, mask_file):
    mask = replace(StepMask.load(mask_file), provenance=record)
    assert asked(mask) == wanted and reached(mask).startswith(got)


def test_learn_a_family(run, folder, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = run("learn", folder, *quick, "--targets", "0.9, 0.7").stdout
    family = MaskFamily.load(tmp_path / "family.json")
    assert family.members[0].macs <= 0.9 and family.members[-1].macs <= 0.7
    assert f"family.json: {len(family)} masks of 4 steps x 27 sites\nasked for 90%, 70% of the MACs\n" in text
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
    said = run("sample", folder, "--mask", mask_file, "-o", tmp_path / "out", "-n", 3, "--batch-size", 2).stdout
    assert re.search(r"full [\d.]+ seconds, masked [\d.]+ seconds", said)
    out = tmp_path / "out"
    assert names(out) == ["full", "masked", "side_by_side.png"]
    assert names(out / "masked") == names(out / "full") == ["010000.png", "010001.png", "010002.png"]
    full, masked = (np.asarray(Image.open(out / kind / "010000.png")) for kind in ("full", "masked"))
    assert full.shape == masked.shape and (full != masked).any()


def test_sample_without_comparison(run, folder, mask_file, tmp_path):
    run("sample", folder, "--mask", mask_file, "-o", tmp_path, "-n", 1, "--first-seed", 5, "--no-compare")
    assert names(tmp_path) == ["masked"] and names(tmp_path / "masked") == ["000005.png"]


@pytest.mark.parametrize("verb", [["sample", "--no-compare", "-o", "{out}"], ["evaluate", "--no-speed"]])
def test_where_cached_values_wait(verb, run, folder, mask_file, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(elsewhere, "moves", lambda tensor, device: sent.append(str(device)))
    verb, *options = (part.format(out=tmp_path) for part in verb)
    run(verb, folder, "--mask", mask_file, "-n", 1, *options)
    assert not sent
    run(verb, folder, "--mask", mask_file, "-n", 1, *options, "--cache-device", "cpu")
    assert set(sent) == {"cpu"}


def test_evaluate_prints_a_table_and_writes_json(run, folder, mask_file, tmp_path):
    file = tmp_path / "result.json"
    text = run("evaluate", folder, "--mask", mask_file, "--json", file, "-n", 2, "--batch-size", 2, "--pairs", 1).stdout
    content = json.loads(file.read_text())
    assert f"{content['psnr']['mean']:.2f} dB" in text and content["seeds"] == [10_000, 10_001]
    assert content["speed"]["pairs"] == 1 and content["speed"]["batch_size"] == 2


def test_evaluate_says_why_there_is_no_ssim(run, folder, mask_file, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    text = run("evaluate", folder, "--mask", mask_file, "-n", 1, "--no-speed").stdout
    said = next(line for line in text.splitlines() if "SSIM" in line)
    assert "needs torchmetrics: pip install 'stepmask[metrics]'" in said
    assert "--metrics fid,kid" in words(run("evaluate", folder, "--mask", mask_file, "--real", mask_file, code=2))


def test_show_draws_compute_and_hold_or_the_plan(run, folder, mask_file, tmp_path):
    text = run("show", mask_file).stdout
    assert "hold" in text and "dead" not in text and "fora" in text
    text = run("show", mask_file, "--model", folder, "-o", tmp_path).stdout
    assert "dead" in text and "of the full run's MACs" in text
    assert names(tmp_path) == ["grid.png", "heatmap.png"]


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm++", "heun", "euler", "pndm"])
def test_a_mask_brings_its_scheduler(scheduler, run, folder, tmp_path):
    schedules.fora(load(str(folder), scheduler=Scheduler(scheduler), device="cpu"), 4, 2).save(tmp_path / "mask.json")
    run("sample", folder, "--mask", tmp_path / "mask.json", "-o", tmp_path / "images", "-n", 1)
    assert names(tmp_path / "images" / "masked") == ["010000.png"]


def test_verbs_take_recipes(run, folder, mask_file, tmp_path):
    path = tmp_path / "recipe.json"
    mask = StepMask.load(mask_file)
    recipe = Recipe(num_inference_steps=4, mask=mask, resolution=Resolution(factor=0.5, switch=2))
    recipe.save(path)
    text = run("show", path).stdout
    assert "resolution" in text and "0.5" in text and str(recipe) in text and repr(mask) in text
    text = run("evaluate", folder, "-m", path, "-n", 2, "--no-speed", "--json", tmp_path / "numbers.json").stdout
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["evaluations"] < 4 and numbers["against"] == "the full run" and "evaluations of the denoiser" in text
    run("sample", folder, "-m", path, "-n", 2, "-o", tmp_path / "samples")
    assert names(tmp_path / "samples") == ["full", "masked", "side_by_side.png"]
    assert "holds a recipe: leave --at out" in words(run("show", path, "--at", 0.5, code=2))
    assert "a recipe, not a mask: " in words(run("export", path, "-o", tmp_path / "x.json", code=2))


def test_optimise_writes_recipes_and_a_picture(run, folder, monkeypatch, tmp_path):
    recipes = Recipe(num_inference_steps=2), Recipe(num_inference_steps=4, resolution=Resolution(factor=0.5, switch=3))
    got = {}

    def optimise(pipe, budgets, **options):
        got.update(options, budgets=budgets, scheduler=type(pipe.scheduler).__name__)
        return Frontier(
            (Point(WAYS[0], 2, 2, 20.0, 1.0, 4, recipes[0]), Point(WAYS[3], 3, 2.5, 22.0, 1.0, 4, recipes[1])),
            {"converged": "converged run: 100 steps"},
        )

    monkeypatch.setattr(stepmask, "optimise", optimise, raising=False)
    output = tmp_path / "recipes"
    options = ["--budget", "2,3", "--no-masks", "--num-images", 4, "--resume", tmp_path / "state"]
    text = run("optimise", folder, "-o", output, *options).stdout
    assert {"budgets": (2.0, 3.0), "masks": False, "num_images": 4, "call_kwargs": None}.items() <= got.items()
    assert names(output) == ["frontier.json", "frontier.png", "recipe-2.json", "recipe-3.json"]
    assert Recipe.load(output / "recipe-2.json") == recipes[0] and Recipe.load(output / "recipe-3.json") == recipes[1]
    assert "22.0 ± 2.0" in text and "converged run: 100 steps" in text
    assert Image.open(output / "frontier.png").width > 600
    assert "numbers of evaluations, 4,6,8,10 for example, got 'few'" in words(
        run("optimise", folder, "--budget", "few", code=2)
    )
