"""The comparison on tiny stand-ins: what is measured, what is written, and that it goes on where it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stepmask import StepMask, StepMaskError, describe, make_plan, measure_cost, schedules
from stepmask.pictures import save_png
from stepmask_lab import method as method_module
from stepmask_lab import reference
from stepmask_lab.benchmark import Comparison, Subject, compare, memory, methods, methods_by_name, run, run_benchmark
from stepmask_lab.method import Method
from stepmask_lab.pages import curve
from stepmask_lab.scores import Metrics
from tiny import FEWEST, ddim_pipeline, dit_pipeline

STEPS = 4
MODELS = {"a-dit": dit_pipeline, "a-unet": ddim_pipeline}
CACHINGS = ("Block Caching", "Block Caching + scale-shift")
RIVALS = {
    "HarmoniCa": ("harmonica", 0.5, {"num_trajectories": 1}),
    "L2C": ("l2c", 0.7, {"num_trajectories": 1}),
    "ECAD": ("ecad", 0.5, {"population": 6, "generations": 0, "num_checked": 1}),
    "DiP-GO": ("dip-go", 0.5, {"iterations": 1}),
}
QUICK = {"steps": (STEPS,), "num_images": 2, "speed": False, "memory": False}
FIELDS = {
    "model", "steps", "method", "setting", "seed", "macs", "psnr_mean", "psnr_min", "psnr_sem", "ssim_mean",
    "peak_cache_bytes", "psnr_when_learned", "num_images", "images_at_once", "psnrs",
}  # fmt: skip


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    monkeypatch.setattr(reference, "names", lambda: sorted(MODELS))
    monkeypatch.setattr(reference, "OF_TABLES", sorted(MODELS))
    monkeypatch.setattr(reference, "load", lambda name, dtype=None: MODELS[name]())
    monkeypatch.setattr(methods, "TRAJECTORIES", 2)
    monkeypatch.setattr(methods, "LEARNED_RIVALS", RIVALS)
    monkeypatch.setattr(methods, "INTERVALS", (2, 3))
    monkeypatch.setattr(method_module, "TARGETS", (0.7, 0.5))
    monkeypatch.setattr(methods, "LEARNING", {"rounds": 0, **FEWEST})
    monkeypatch.setattr(methods, "SEEDS", (0, 1))


def forbid(monkeypatch, *names):
    for name in names:
        monkeypatch.setattr(memory, name, lambda *args, name=name, **kwargs: pytest.fail(f"{name} was called again"))


def test_rows_files_and_going_on(tmp_path, monkeypatch, capsys):
    output = tmp_path / "new" / "bench"
    unet_methods = methods_by_name(
        "deepcache,deepcache-forecast,deepcache-quad,faster-diffusion,ditfastattn,end-to-end"
    )
    once = [replace(method, seeds=method.seeds[:1]) for method in methods.methods()]
    parts = {"a-dit": once, "a-unet": unet_methods}

    def benchmark():
        return [run_benchmark(output, models=[name], chosen=chosen, **QUICK) for name, chosen in parts.items()][-1]

    rows = benchmark()
    capsys.readouterr()
    assert all(set(row) - {"effort"} == FIELDS and row["steps"] == STEPS for row in rows)
    settings = {name: [(r["method"], r["setting"]) for r in rows if r["model"] == name] for name in MODELS}
    fora, forecast_fora, cache, forecast_cache = (
        [(method, f"1:{k}") for k in methods.INTERVALS]
        for method in ("FORA", "FORA + forecast", "DeepCache", "DeepCache + forecast")
    )
    each = ["0.7", "0.5"]
    selected = [("end-to-end", t) for t in each]
    learned = [(f"end-to-end, {how}", t) for how in ("six values", "by runs", "hold only") for t in each]
    learned += [("paper's learner", "0.5"), *((name, f"{target:g}") for name, (_, target, _) in RIVALS.items())]
    others = [("step skipping", f"every {nth}") for nth in ("2nd", "3rd", "4th")]
    others += [("key steps + forecast", steps) for steps in ("3", "2")]
    others += [("random", target) for target in each]
    others += [(f"fewer steps{how}", steps) for how in ("", ", DPM-Solver++") for steps in ("3", "2")]
    others += [("SmoothCache", "0.7"), *((name, target) for name in CACHINGS for target in each)]  # 0.5 cannot be
    thresholds = [("DiTFastAttn", "0.05"), ("DiTFastAttn", "0.15")]
    wanted = [("full run", "all"), *fora, *forecast_fora, *selected, *learned, *others, *thresholds]
    assert sorted(settings["a-dit"]) == sorted(wanted), "DeepCache needs levels"
    of_unets = [("DeepCache, quad", f"1:{k}") for k in methods.INTERVALS] + [("Faster Diffusion", "as published")]
    assert sorted(settings["a-unet"]) == sorted(
        [("full run", "all"), *cache, *forecast_cache, *of_unets, *selected * 2]
    )
    order = [method.name for method in methods.methods()]
    for found in settings.values():
        assert list(dict(found)) == [name for name in order if name in dict(found)], "in the order of methods"

    for row in rows:
        assert 0 < row["macs"] <= 1 and row["psnr_min"] <= row["psnr_mean"] <= 100
        if "learne" in row["method"] or row["method"].startswith("end-to-end"):
            assert row["macs"] <= float(row["setting"])
    for (name, make), seed in zip(MODELS.items(), (0, 1), strict=True):
        result = json.loads((output / f"{name}.json").read_text())
        assert result["model"] == name and result["rows"] == [row for row in rows if row["model"] == name]
        (circumstances,) = result["circumstances"].values()
        assert circumstances["seeds"] == [10_000, 10_001] and "versions" in circumstances
        pipe = make()
        mask = StepMask.load(output / "masks" / f"{name}-{STEPS}-end-to-end-0.5-seed{seed}.json")
        (row,) = (r for r in result["rows"] if (r["method"], r["setting"], r["seed"]) == ("end-to-end", "0.5", seed))
        guided = {"guidance_scale": methods.GUIDANCE_SCALE} if name == "a-dit" else {}
        assert mask.provenance["guidance_scale"] == guided.get("guidance_scale")
        fraction = measure_cost(pipe, call_kwargs=guided).fraction(make_plan(mask, describe(pipe)))
        assert row["macs"] == pytest.approx(fraction)
    without = [row for row in rows if row["method"].startswith("fewer steps")]
    assert all(row["macs"] == int(row["setting"]) / STEPS for row in without)
    saved = len(list((output / "masks").iterdir()))
    assert saved == len(rows) - len(without) + 4, "six families, none of the two full runs"
    assert len(list((output / "rows").iterdir())) == len(rows)
    save_png(curve(rows), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000

    monkeypatch.setattr(compare, "evaluate", lambda *args, **kwargs: pytest.fail("evaluated again"))
    for name in ("learn", "learn_family"):
        monkeypatch.setattr(methods, name, lambda *args, **kwargs: pytest.fail("learned again"))
    assert benchmark() == rows


def test_an_interrupted_benchmark_keeps_what_it_has(tmp_path, monkeypatch):
    evaluate, calls = compare.evaluate, []

    def failing(*args, **kwargs):
        calls.append(kwargs["reference"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(compare, "evaluate", failing)
    options = {"models": ["a-dit"], "chosen": methods_by_name("fora,random,fewer-steps"), **QUICK}
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(tmp_path, **options)
    assert len(list((tmp_path / "rows").iterdir())) == 3
    assert None not in calls, "the full run is made once, before all others"
    rows = run_benchmark(tmp_path, **options)
    masked = [row for row in rows if row["method"] in ("FORA", "random")]
    assert len(masked) == len(calls) - 1, "only the one that failed was tried again"
    assert len({(row["method"], row["setting"], row["seed"]) for row in rows}) == len(rows)


def test_memory_is_recorded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "probing_memory_mib", lambda name, steps: {"peak": 100.0 + steps / 10, "waiting": 5.0})
    monkeypatch.setattr(memory, "learning_memory_mib", lambda name, steps, way: len(way) + steps / 10)
    options = {"models": ["a-unet"], "steps": (), "num_images": 2}
    assert run_benchmark(tmp_path, **options) == []
    result = json.loads((tmp_path / "a-unet.json").read_text())
    assert result["probing_memory_mib"] == {
        str(steps): {"peak": 100.0 + steps / 10, "waiting": 5.0} for steps in run.MEMORY_STEPS
    }
    assert result["learning_memory_mib"] == {
        way: {str(steps): len(way) + steps / 10 for steps in run.MEMORY_STEPS} for way in memory.WAYS
    }
    forbid(monkeypatch, "probing_memory_mib", "learning_memory_mib")
    run_benchmark(tmp_path, **options)
    assert json.loads((tmp_path / "a-unet.json").read_text()) == result


def comparison(folder, **options):
    subject = Subject(ddim_pipeline(), STEPS, targets=(0.5,))
    return Comparison("a-unet", subject, folder, num_images=3, batch_size=2, **options)


@pytest.fixture
def counted(monkeypatch):
    """How many images each evaluation made, and whether it was timed."""
    calls = []

    def counting(function):
        def call(*args, **kwargs):
            calls.append((kwargs["seeds"], kwargs["speed"]))
            return function(*args, **kwargs)

        return call

    for name in ("evaluate", "evaluate_unmasked"):
        monkeypatch.setattr(compare, name, counting(getattr(compare, name)))
    return calls


@pytest.mark.slow
def test_speed_ups_are_added_to_what_was_measured_without(tmp_path, counted):
    chosen = methods_by_name("random,fewer-steps")
    rows = comparison(tmp_path).run(chosen)
    assert counted == [(3, False)] * 3 and not any("speed" in row for row in rows)
    counted.clear()
    timed = comparison(tmp_path, speed=True).run(chosen)
    assert counted == [(2, True), (1, True)] * 3, "the full run too; a batch and one image, no images anew"
    for before, row in zip(rows, timed, strict=True):
        for speed, batch_size in ((row.pop("speed"), 2), (row.pop("speed_at_1"), 1)):
            assert speed["pairs"] == 3 and speed["batch_size"] == batch_size and speed["device"]
            assert speed["one_over_macs"] == pytest.approx(1 / row["macs"])
            assert speed["share_of_bound"] == pytest.approx(speed["denoiser_speedup"] * row["macs"])
        assert row == before
    counted.clear()
    comparison(tmp_path, speed=True).run(chosen)
    assert counted == []
    assert all("versions" in json.loads(path.read_text())["circumstances"] for path in (tmp_path / "rows").iterdir())


@pytest.mark.slow
def test_speed_ups_are_added_to_collected_results(tmp_path, counted):
    chosen = methods_by_name("random,fewer-steps")
    rows = comparison(tmp_path).run(chosen)
    comparison(tmp_path).files.collect()
    for path in [*(tmp_path / "rows").iterdir(), *(tmp_path / "masks").iterdir()]:
        path.unlink()
    counted.clear()
    told = []
    timed = comparison(tmp_path, speed=True, tell=told.append).run(chosen)
    assert [row.get("speed") is not None for row in timed] == [row["method"] != "random" for row in rows]
    assert counted == [(2, True), (1, True)] * 2, "no mask is drawn anew for it"
    assert [row["speed_at_1"]["batch_size"] for row in timed if "speed" in row] == [1] * 2
    assert any("no speed of a-unet, 4 steps: random 0.5, learning seed 0: its mask is not in" in line for line in told)


def test_every_cell_shows_its_first_images(tmp_path, counted):
    chosen = methods_by_name("fora")
    comparison(tmp_path).run(chosen)
    strips = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert len(strips) == 1 + len(methods.INTERVALS) and "a-unet-4-full-run-all.png" in strips
    names = ("a-unet-4-full-run-all.png", "a-unet-4-fora-1to3.png")
    full, masked = (np.asarray(Image.open(tmp_path / "pictures" / name)) for name in names)
    size = ddim_pipeline().unet.config.sample_size
    assert full.shape == masked.shape == (size, 3 * size, 3) and (full != masked).any()
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    counted.clear()
    comparison(tmp_path).run(chosen)
    assert counted == [(3, False)] * len(strips)
    assert {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()} == strips


def test_scores_come_with_intervals_and_the_full_runs_own(tmp_path, counted):
    metrics = Metrics(lpips=lambda one, other: (one - other).square().mean((1, 2, 3)))
    comparison(tmp_path, speed=True).run(methods_by_name("random"))
    counted.clear()
    full, masked = comparison(tmp_path, speed=True, metrics=metrics).run(methods_by_name("random"))
    assert counted == [(3, False)] * 2, "sampled again for scores, not timed again"
    assert (full["method"], full["macs"], full["psnr_mean"]) == ("full run", 1, 100)
    assert full["scores"]["lpips"]["value"] == 0
    score = masked["scores"]["lpips"]
    assert score["low"] < score["value"] < score["high"] and score["num_images"] == 3 and masked["speed"]["pairs"] == 3


def test_a_reference_model_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "names", lambda: [])
    with pytest.raises(StepMaskError, match="no reference model 'a-dit'"):
        run_benchmark(tmp_path / "bench", **QUICK)
    assert not (tmp_path / "bench").exists()


def test_memory_is_printed(capsys):
    found = []
    for steps in (3, 6):
        memory.main("a-dit", steps)
        found.append([float(word) for word in capsys.readouterr().out.split()[-2:]])
    (peak, waiting), (_, later) = found
    assert 50 < peak < 10**6 and 0 < waiting < later


@pytest.mark.parametrize("way", memory.WAYS)
def test_memory_of_every_way_to_learn(way, capsys):
    memory.main("a-unet", 4, way, 1)
    peak, waiting = map(float, capsys.readouterr().out.split()[-2:])
    assert 50 < peak < 10**6 and (waiting > 0) == (way == "end-to-end")


def test_a_budget_that_cannot_be_reached_is_no_reason_to_go_without_the_others(tmp_path):
    subject = Subject(ddim_pipeline(), 4, targets=(0.6, 0.1))
    told = []
    run = Comparison("a-unet", subject, tmp_path, num_images=2, batch_size=2, tell=told.append)
    rows = run.run([replace(method, seeds=(0,)) for method in methods_by_name("end-to-end")])
    assert [row["setting"] for row in rows if row["method"] == "end-to-end"] == ["0.6"]
    assert any("left out" in line and "0.1" in line for line in told)


def test_a_method_that_fails_is_left_out(tmp_path):
    def fail(*args):
        raise StepMaskError("cannot do that here")

    told = []
    run = comparison(tmp_path, tell=told.append)
    rows = run.run([Method("broken", lambda subject: ["1"], fail), *methods_by_name("fora")])
    assert "left out: cannot do that here" in told and any(row["method"] == "FORA" for row in rows)


def test_a_family_that_was_learned_for_other_targets_is_not_taken_for_these(tmp_path):
    told = []
    for targets in ((0.6,), (0.8,)):
        subject = Subject(ddim_pipeline(), 4, targets=targets)
        run = Comparison("a-unet", subject, tmp_path, num_images=2, batch_size=2, tell=told.append)
        rows = run.run([replace(method, seeds=(0,)) for method in methods_by_name("end-to-end")])
    assert [row["setting"] for row in rows if row["method"] == "end-to-end"] == ["0.6"]
    assert any("left out" in line and "learned for 0.6 of the MACs, not for 0.8" in line for line in told)


def test_masks_for_another_guidance_are_not_compared_with_the_full_run_of_this_one(tmp_path):
    mask = replace(schedules.fora(dit_pipeline(), 4, 2), provenance={"guidance_scale": 2.5})
    kept = Method("kept", lambda subject: ["1"], lambda *args: mask)
    for call, measured in (({}, False), ({"guidance_scale": 2.5}, True)):
        told, subject = [], Subject(dit_pipeline(), 4, call)
        run = Comparison("a-dit", subject, tmp_path / str(measured), num_images=2, batch_size=2, tell=told.append)
        assert any(row["method"] == "kept" for row in run.run([kept])) == measured
        assert any("learned with guidance 2.5, and this run has 4.0" in line for line in told) != measured
