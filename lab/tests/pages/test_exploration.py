"""A benchmark's folder as a page: its rows, masks and pictures, and what is wrong with a folder."""

import json

import pytest
import torch

from stepmask import StepMaskError, schedules
from stepmask_lab.benchmark.image_strips import save_strip
from stepmask_lab.benchmark.result_files import Key, ResultFiles
from stepmask_lab.pages.exploration import benchmark_report
from tiny import dit_pipeline


def row(macs, psnr, **more):
    circumstances = {"scheduler": "DDIMScheduler", "guidance_scale": 2.5, "seeds": list(range(20))}
    numbers = {
        "macs": macs,
        "psnr_mean": psnr,
        "psnr_min": psnr - 5,
        "psnr_sem": 0.5,
        "ssim_mean": 0.9,
        "num_images": 2,
    }
    return {**numbers, "peak_cache_bytes": 1024, "circumstances": circumstances, **more}


@pytest.fixture
def folder(tmp_path):
    """The full run and two methods at 4 steps, all with pictures, one with a mask; another row at 8 steps."""
    files = ResultFiles(tmp_path / "bench", "tiny")
    full, fora = Key("tiny", 4, "full run", "all"), Key("tiny", 4, "FORA", "1:2")
    learned = Key("tiny", 4, "end-to-end", "0.5", 0)
    files.save(full, row(1.0, 100.0))
    files.save(fora, row(0.51, 30.0, scores={"fd_cifar": {"value": 7.5}}))
    files.save(learned, row(0.5, 45.0, speed={"denoiser_speedup": 1.9, "share_of_bound": 0.9}))
    files.save(Key("tiny", 8, "FORA", "1:2"), row(0.5, 33.0))
    for level, key in enumerate((full, fora, learned)):
        save_strip(torch.full((2, 3, 4, 4), level / 4), files.strip(key))
    (files.folder / "masks").mkdir()
    schedules.fora(dit_pipeline(), 4, 2).save(files.folder / "masks" / f"{learned.slug}.json")
    return files.folder


def test_every_row_is_an_entry_with_what_is_kept_of_it(folder):
    report = benchmark_report(folder)
    assert [study.name for study in report.studies] == ["tiny, 8 steps", "tiny, 4 steps"]
    study = report.studies[1]
    ours, fora = study.entries if study.entries[0].method == "end-to-end" else study.entries[::-1]
    assert ours.values == {
        "macs": 0.5, "speedup": 1.9, "cache": 1024, "psnr": 45.0, "worst": 40.0, "ssim": 0.9, "seed": 0
    }  # fmt: skip
    assert ours.interval == pytest.approx((44.02, 45.98), abs=0.01) and ours.setting == "0.5, seed 0"
    assert len(ours.map["sites"]) > 3 and fora.map is None
    assert fora.values["fd_cifar"] == 7.5 and study.num_pictures == 2
    axes = {axis.key: axis for axis in study.axes}
    assert set(axes) == {"macs", "speedup", "cache", "psnr", "worst", "ssim", "fd_cifar"}
    assert axes["fd_cifar"].better == "lower"
    strip = ResultFiles(folder, "tiny").strip
    assert study.picture == strip(Key("tiny", 4, "full run", "all")).read_bytes()
    assert fora.picture == strip(Key("tiny", 4, "FORA", "1:2")).read_bytes()
    assert [(method.name, method.ours) for method in study.methods] == [("end-to-end", True), ("FORA", False)]
    assert ("scheduler", "DDIMScheduler") in study.facts


def test_collected_results_lie_beside_their_masks(folder, tmp_path):
    there = tmp_path / "published"
    ResultFiles(folder, "tiny").collect()
    (there / "results").mkdir(parents=True)
    (folder / "tiny.json").rename(there / "results" / "tiny.json")
    (folder / "masks").rename(there / "masks")
    entries = benchmark_report(there).studies[1].entries
    assert [entry.map is not None for entry in entries if entry.method == "end-to-end"] == [True]


def test_the_verb_writes_the_page(run, folder, tmp_path):
    said = run("report", folder, "-o", tmp_path / "page").stdout
    assert "index.html" in said and "end-to-end" in (tmp_path / "page" / "index.html").read_text()


def test_what_is_no_number_is_not_drawn(folder):
    file = folder / "rows" / "tiny-8-fora-1to2.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"ssim_mean": "<b>", "method": "a\nb", "psnr_min": float("nan")})
    )
    (entry,) = benchmark_report(folder).studies[0].entries
    assert entry.method == "a\nb" and entry.values["ssim"] is None and entry.values["worst"] is None


def test_the_full_run_alone_is_nothing_to_explore(tmp_path):
    ResultFiles(tmp_path, "tiny").save(Key("tiny", 4, "full run", "all"), row(1.0, 100.0))
    with pytest.raises(StepMaskError, match="the full run alone"):
        benchmark_report(tmp_path)


def test_folders_without_results_and_with_broken_ones(folder, tmp_path):
    with pytest.raises(StepMaskError, match="holds no results of a benchmark"):
        benchmark_report(tmp_path)
    file = folder / "rows" / "tiny-8-fora-1to2.json"
    whole = json.loads(file.read_text())
    for broken, says in (
        ({name: value for name, value in whole.items() if name != "macs"}, "'macs' is missing"),
        (whole | {"psnr_mean": "high"}, "cannot be used"),
        (whole | {"psnr_sem": None}, "cannot be used"),
        ([whole], "cannot be used"),
    ):
        file.write_text(json.dumps(broken))
        with pytest.raises(StepMaskError, match=says):
            benchmark_report(folder)
    file.write_text("{")
    with pytest.raises(StepMaskError, match="is no result of a benchmark"):
        benchmark_report(folder)
    file.write_text(json.dumps(whole))
    ResultFiles(folder, "tiny").strip(Key("tiny", 4, "FORA", "1:2")).write_bytes(b"<svg>")
    with pytest.raises(StepMaskError, match="is no PNG"):
        benchmark_report(folder)
