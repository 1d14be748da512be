"""The laboratory's verbs on tiny random models: what they print, leave behind, and refuse."""

import json

import pytest

from command_line import words
from stepmask import MaskFamily


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_demo_does_it_all(run, folder, tmp_path):
    options = ["--model", folder, "--steps", 4, "--targets", "0.9,0.6", "--rounds", 0, "--gains", 1]
    text = run("demo", "-o", tmp_path, *options, "--num-images", 2).stdout
    runs = ["fora-0.6", "fora-0.9", "full", "stepmask-0.6", "stepmask-0.9"]
    assert names(tmp_path) == sorted(["comparison.png", "evaluation.json", "family.json", *runs])
    assert all({"010000.png", "010001.png"} <= set(names(tmp_path / name)) for name in runs)
    assert "speed-up" in text and "comparison.png" in text and "grid.png" in text
    assert "compute, hold" in text and "forecast" in text and text.count("FORA") >= 2
    first, second = MaskFamily.load(tmp_path / "family.json")
    assert 0.6 < first.macs <= 0.9 and second.macs <= 0.6
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["stepmask-0.6"]["macs_fraction"] <= 0.6 and found["fora-0.9"]["macs_fraction"] == 1


def test_benchmark_compares_methods_on_a_model(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("stepmask_lab.benchmark.methods.INTERVALS", (3,))
    output = tmp_path / "out"
    given = (folder, "-o", output, "--steps", 4, "-n", 2, "--batch-size", 2, "--methods", "fora,fora-forecast")
    text = run("benchmark", *given).output
    assert "FORA + forecast" in text and "1:3" in text and "curve.png" in text
    assert {"rows", "masks", "pictures", "images", "results.md"} < set(names(output))
    assert {"curve.png", "speed.png"} < set(names(output / "images"))
    rows = names(output / "rows")
    assert len(rows) == 3 and all(row.startswith(f"{folder.name}-4-") for row in rows)
    table = (output / "results.md").read_text()
    assert "## At a glance\n" in table and "| 4 steps, " in table and "| of 1 / MACs |" in table
    before = {path: path.stat().st_mtime_ns for path in (output / "rows").iterdir()}
    run("benchmark", *given)
    after = {path: path.stat().st_mtime_ns for path in (output / "rows").iterdir()}
    assert after == before, "nothing is measured again"
    text = run("benchmark", "-o", output, "--page", tmp_path / "docs").output
    assert "results.md" in text and names(tmp_path / "docs") == ["images", "results", "results.md"]
    (raw,) = (tmp_path / "docs" / "results").iterdir()
    assert len(json.loads(raw.read_text())["rows"]) == 3
    run("benchmark", "-o", tmp_path / "docs" / "results", "--page", tmp_path / "again")
    page, again = ((tmp_path / name / "results.md").read_text() for name in ("docs", "again"))
    assert again == page, "from the raw results alone"
    assert "holds no results" in run("benchmark", "-o", tmp_path / "none", "--page", tmp_path / "b", code=2).output


def test_benchmark_without_a_model_is_that_of_the_readme(run, tmp_path, monkeypatch):
    import stepmask_lab.benchmark

    calls = []
    fake = lambda output, **options: calls.append((output, options)) or []  # noqa: E731
    monkeypatch.setattr(stepmask_lab.benchmark, "run_benchmark", fake)
    run("benchmark", "-o", tmp_path / "bench")
    run("benchmark", "-o", tmp_path / "bench", "--steps", 20, "--steps", 50, "-n", 4, "--no-speed", "--targets", "0.5")
    assert (tmp_path / "bench").is_dir()
    (_, first), (_, second) = calls
    assert len(first.pop("chosen")) == len(second.pop("chosen")) == len(stepmask_lab.benchmark.methods_by_name())
    usual = {"speed": True, "metrics": None, "memory": True, "transfer": False}
    assert first == {**usual, "targets": (0.7, 0.6, 0.5, 0.4, 0.3), "num_images": 64}
    assert second == {**usual, "speed": False, "targets": (0.5,), "num_images": 4, "steps": [20, 50]}


def test_benchmark_names_its_methods(run, folder, tmp_path):
    text = run("benchmark", folder, "-o", tmp_path / "out", "--methods", "fora,lerned", code=2).output
    assert "no method 'lerned'; there are full-run, fora, deepcache" in text
    assert not (tmp_path / "out").exists()


def test_evaluate_scores_the_images_too(run, folder, mask_file, tmp_path, monkeypatch):
    monkeypatch.setattr("stepmask_lab.benchmark.metrics.BOOTSTRAP", 3)
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


@pytest.mark.parametrize("name", ["mask.json", "bad.npz"])
def test_reference_statistics_of_another_kind(name, run, folder, mask_file, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"x")
    path = mask_file if name == "mask.json" else tmp_path / name
    result = run("evaluate", folder, "--mask", mask_file, "--metrics", "cifar", "--real", path, "-n", 2, code=2)
    assert "holds no statistics of features" in words(result)


def test_a_benchmark_of_all_models_takes_no_options_of_one(run, tmp_path):
    text = words(run("benchmark", "--device", "cpu", "--guidance-scale", 3, "-o", tmp_path, code=2))
    assert "--device, --guidance-scale needs a MODEL" in text
    assert "--batch-size needs a MODEL" in words(run("benchmark", "--batch-size", 4, "-o", tmp_path / "b", code=2))
    text = words(run("benchmark", "reference:dit-cifar10", "--transfer", "-o", tmp_path / "b", code=2))
    assert "--transfer measures masks of the reference models: leave MODEL out" in text


def test_a_benchmarks_folder_keeps_to_its_options(run, dit_folder, tmp_path):
    options = ["benchmark", dit_folder, "--methods", "fora", "--steps", 4, "--no-speed", "-o", tmp_path / "b"]
    run(*options, "-n", 2)
    assert "number of images was 2, now 3" in words(run(*options, "-n", 3, code=2))
    assert "guidance_scale was 4.0, now 2.5" in words(run(*options, "-n", 2, "--guidance-scale", 2.5, code=2))
    (tmp_path / "classes.txt").write_text("3\n1\n")
    told = words(run(*options, "-n", 2, "--conditions", tmp_path / "classes.txt", code=2))
    assert "conditions was None, now" in told
    run(*options, "-n", 2)


def test_a_benchmarks_folder_keeps_to_its_call(run, folder, tmp_path):
    options = ["benchmark", folder, "--methods", "full-run", "--steps", 4, "--no-speed", "-n", 2, "-o", tmp_path / "b"]
    run(*options, "--call", "eta=0.5")
    assert "call was {'eta': 0.5}, now {'eta': 0.2}" in words(run(*options, "--call", "eta=0.2", code=2))


def test_verbs_name_their_methods_models_and_presets(run, tmp_path):
    text = run("--help").output
    assert "Laboratory" in text and all(verb in text for verb in ("demo", "benchmark", "reproduce"))
    text = words(run("demo", "--model", "preset:dit-xl-2-256", "-o", tmp_path / "x", code=2))
    assert "preset:dit-xl-2-256 has no weights and makes no images" in text
    text = words(run("benchmark", "reference:nope", "-o", tmp_path / "x", "--methods", "fora", code=2))
    assert "no reference model 'nope'; there are ddpm-cifar10" in text
