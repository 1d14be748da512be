"""The page of results: what is compared with what, ties, reasons, tables, and the pictures that it names."""

import re

import numpy as np
import pytest
from PIL import Image

from stepmask import StepMaskError
from stepmask.pictures import same_seeds
from stepmask_lab.pages import Results, rows_table, write_page
from stepmask_lab.pages.claims import claims
from stepmask_lab.pages.verdicts import by_budget, counts, verdicts


def row(method, setting, macs, psnr, *, sem=0.1, seed=None, **more):
    found = {"model": "m", "steps": 20, "method": method, "setting": setting, "seed": seed, "macs": macs}
    return found | {"psnr_mean": psnr, "psnr_min": psnr - 5, "psnr_sem": sem, "ssim_mean": 0.9} | more


def scored(value, error=0.1, change=None):
    score = {"value": value, "standard_error": error}
    return {
        "fd_cifar": score if change is None else score | {"change": {"value": change[0], "standard_error": change[1]}}
    }


def timed(speedup, share=0.9):
    return {"denoiser_speedup": speedup, "share_of_bound": share}


def pairs(rows):
    return [(one.learned["setting"], one.rival["method"], one.rival["setting"]) for one in verdicts(rows)]


LEARNED = [row("end-to-end", "0.5", 0.5, 45.0, seed=0), row("end-to-end", "0.3", 0.3, 35.0, seed=0)]


def test_rows_are_held_against_the_next_cheaper_mask():
    rivals = [row("FORA", "1:2", 0.502, 30), row("FORA", "1:3", 0.35, 28), row("FORA", "1:4", 0.25, 25)]
    assert pairs([*LEARNED, *rivals]) == [("0.5", "FORA", "1:2"), ("0.3", "FORA", "1:3")]
    near = row("FORA", "1:2", 0.496, 30)
    assert pairs([*LEARNED, near])[0] == ("0.5", "FORA", "1:2"), "a percent more is as much"


def test_where_a_method_has_no_row_at_a_budget_its_best_cheaper_one_stands_for_it():
    rivals = [row("FORA", "1:4", 0.25, 25), row("FORA", "1:5", 0.2, 27)]
    assert pairs([*LEARNED, *rivals]) == [("0.5", "FORA", "1:5"), ("0.3", "FORA", "1:5")]
    assert pairs([*LEARNED, row("DeepCache", "1:2", 0.9, 40)]) == [("0.5", "DeepCache", "1:2")], "never a dearer one"


def test_speed_ups_count_where_both_have_one():
    learned = [row("end-to-end", "0.5", 0.5, 45.0, seed=0, speed=timed(1.6))]
    slow, fast = row("FORA", "1:2", 0.5, 30, speed=timed(1.5)), row("FORA", "1:3", 0.5, 28, speed=timed(1.9))
    (found,) = verdicts([*learned, slow, fast])
    assert found.rival["setting"] == "1:2" and found.by == "speed-up"
    (found,) = verdicts([*learned, row("FORA", "1:2", 0.5, 30)])
    assert found.by == "MACs"


def test_learning_seeds_are_averaged_and_ours_are_no_rivals():
    rows = [row("end-to-end", "0.5", 0.5, psnr, seed=seed) for seed, psnr in enumerate((40.0, 44.0))]
    others = [
        row("end-to-end, hold only", "0.5", 0.5, 50), row("full run", "all", 1.0, 100), row("FORA", "1:2", 0.5, 41.0),
    ]  # fmt: skip
    (found,) = verdicts([*rows, *others])
    assert found.psnr.value == pytest.approx(1.0) and found.rival["method"] == "FORA"
    assert verdicts(others) == []


@pytest.mark.parametrize(("psnr", "outcome"), [(44.0, "leads"), (44.9, "ties"), (45.1, "ties"), (46.0, "trails")])
def test_differences_within_their_interval_are_ties(psnr, outcome):
    (found,) = verdicts([LEARNED[0], row("FORA", "1:2", 0.5, psnr)])
    assert found.psnr.outcome == outcome and found.psnr.margin == pytest.approx(1.96 * 0.1 * 2**0.5, rel=1e-3)


def test_psnr_is_compared_image_by_image_where_that_is_known():
    """Images differ by 20 dB among each other, the two runs by 0.5 dB on each of them."""
    by_image = [40.0, 50.0, 60.0]
    ours = [
        row("end-to-end", "0.5", 0.5, 50.5, sem=6.0, seed=i, psnrs=[p + d for p in by_image])
        for i, d in ((0, 0.4), (1, 0.6))
    ]
    known, unknown = row("FORA", "1:2", 0.5, 50.0, sem=6.0, psnrs=by_image), row("FORA", "1:2", 0.5, 50.0, sem=6.0)
    (found,) = verdicts([*ours, known])
    assert found.psnr.outcome == "leads" and found.psnr.margin == pytest.approx(0, abs=1e-9)
    (found,) = verdicts([*ours, unknown])
    assert found.psnr.outcome == "ties"
    (found,) = verdicts([*ours, known | {"psnrs": by_image[:2]}])
    assert found.psnr.outcome == "ties", "other images"


@pytest.mark.parametrize(("ours", "rivals", "outcome"), [
    (scored(6.0), scored(6.5), "leads"),
    (scored(6.2), scored(6.0), "ties"),
    (scored(6.2, change=(0.2, 0.01)), scored(6.0, change=(0.0, 0.02)), "trails"),
    ({"fd_cifar": 6.2}, scored(6.0), "ties"),
    ({"fd_cifar": 6.4}, scored(6.0), "trails"),
    ({"fd_cifar": 6.01}, {"fd_cifar": 6.0}, "trails"),
    ({"fd_cifar": 6.0}, {"fd_cifar": 6.0}, "ties"),
])  # fmt: skip
def test_scores_of_sets_with_paired_errors_where_known(ours, rivals, outcome):
    rows = [LEARNED[0] | {"scores": ours}, row("FORA", "1:2", 0.5, 30, scores=rivals)]
    (found,) = verdicts(rows)
    assert found.score.outcome == outcome and found.holds == (outcome != "trails")
    assert counts([found], "score")[outcome] == 1


def test_claims_count_by_budget_and_give_reasons():
    rivals = [
        row("FORA", "1:2", 0.5, 46.0, scores=scored(5.0)),
        row("DeepCache", "1:5", 0.4, 30.0, scores=scored(9.0)),
        row("fewer steps", "6", 0.3, 35.1, scores=scored(6.5)),
    ]
    rows = [one | {"scores": scored(6.0)} for one in LEARNED] + rivals
    text = claims([("m", 20, rows)])
    assert "| m, 20 steps | end-to-end 0.5 | 0.500 | – | 2 | 1 / 0 / 1 | 1 / 0 / 1 | no |" in text
    assert "| m, 20 steps | end-to-end 0.3 | 0.300 | – | 1 | 1 / 0 / 0 | 1 / 0 / 0 | yes |" in text
    assert "- m, 20 steps: holds at 1 of 2 budgets.\n" in text
    reason = "**FORA 1:2** (regular, holds) at 0.500 MACs, end-to-end 0.5 at 0.500 MACs: PSNR 45.0 against 46.0 dB "
    assert reason + "(-1.0 ± 0.3, behind); fd_cifar 6 against 5 (+1.00 ± 0.28)." in text
    assert "(fewer steps, not static)" in text and "(-0.1 ± 0.3, a tie)" in text
    assert list(by_budget(verdicts(rows))) == ["0.5", "0.3"]


def test_claims_without_learned_masks_or_scores():
    assert "No learned mask" in claims([("m", 20, [row("FORA", "1:2", 0.5, 30)])])
    text = claims([("m", 20, [*LEARNED, row("FORA", "1:2", 0.5, 30)])])
    assert "holds at 1 of 1 budgets; PSNR alone" in text and "does not hold" not in text


def test_table_of_rows_has_the_columns_that_were_measured():
    plain = rows_table([row("FORA", "1:2", 0.5, 30.0)])
    assert plain.splitlines()[2] == "| FORA | 1:2 | 0.500 | 2.00 | – | – | 30.0 ± 0.2 | 25.0 | 0.9000 |"
    adaptive = row("EasyCache", "0.1", 0.5, 30.0, work={"mean": 0.5, "deviation": 0.1, "min": 0.4, "max": 0.65})
    assert rows_table([adaptive]).splitlines()[2].startswith("| EasyCache | 0.1 | 0.500 (0.40–0.65) | 2.00 |")
    full = row("full run", "all", 1.0, 105.0, scores={"is_cifar": 3.0} | scored(6.0, change=(0, 0)), num_images=4)
    masked = row("end-to-end", "0.5", 0.5, 40.0, seed=1, speed=timed(1.8), scores=scored(6.5, change=(0.5, 0.1)))
    lines = rows_table([full, masked]).splitlines()
    assert lines[0].endswith("| SSIM | fd_cifar | less full run | is_cifar | images |")
    assert lines[2].endswith("| the same | – | 0.9000 | 6.00 ± 0.20 | +0 | 3 | 4 |")
    assert lines[3].startswith("| end-to-end, seed 1 | 0.5 | 0.500 | 2.00 | 1.80 | 0.90 |")
    assert lines[3].endswith("| 6.50 ± 0.20 | +0.50 ± 0.20 | – | – |")


@pytest.fixture
def strips(tmp_path):
    """A strip of three images for every row, by method and setting."""

    def strip(one):
        path = tmp_path / f"{one['method']}-{one['setting'].replace(':', '')}.png"
        if not path.exists():
            shade = int(255 * one["macs"])
            Image.fromarray(np.full((8, 24, 3), shade, dtype=np.uint8)).save(path)
        return path

    return strip


def test_the_page_names_pictures_that_are_there(tmp_path, strips):
    rivals = [
        row("FORA", "1:2", 0.5, 30.0, speed=timed(1.9, 0.95)),
        row("FORA", "1:3", 0.35, 28.0),
        row("new", "a", 0.4, 33),
    ]
    rows = [row("full run", "all", 1.0, 105.0), *LEARNED, *rivals]
    known = {"pipeline": "P", "scheduler": "S", "seeds": [5, 6], "versions": {"torch": "2"}, "bootstrap": {"draws": 9}}
    old = [{"mask": "DeepCache 1:3", "steps": 20, **timed(1.5, 0.8)}]
    results = Results("m", rows, {"20": known}, old, strips)
    files = write_page([results], tmp_path / "docs", "the command")
    text = files[0].read_text()
    assert files[0] == tmp_path / "docs" / "results.md" and "`the command` writes this page" in text
    named = re.findall(r"\]\((images/[^)]*)\)", text)
    assert named == ["images/trade_off-m-20.png", "images/seeds-m-20.png"]
    assert {tmp_path / "docs" / name for name in named} == set(files[1:])
    assert "| m | 20 | P, S | none | 2 | 5 to 6 | 9 |" in text
    assert (
        "| m | 20 | FORA | 1 | 1.90 | 0.95 | 0.95 |" in text
        and "| m | 20 | DeepCache | 1 | 1.50 | 0.80 | 0.80 |" in text
    )
    written = write_page([Results("m", rows)], tmp_path / "docs", "the command")
    assert len(written) == 2 and "seeds-m-20.png" in written[0].read_text(), "a grid that was made before stays"


def test_the_grid_has_the_full_run_learned_and_the_best_of_each_family(tmp_path, strips):
    rivals = [
        row("FORA", "1:2", 0.502, 30.0), row("FORA", "1:3", 0.35, 31.0), row("new", "a", 0.4, 33),
        row("new", "b", 0.6, 40),
    ]  # fmt: skip
    results = Results("m", [*rivals, *LEARNED, row("full run", "all", 1.0, 105.0)], strip=strips)
    from stepmask_lab.pages.page import _strips

    shown = [(name, note) for name, note, _ in _strips(results, results.rows)]
    assert shown == [
        ("full run", "100% of the MACs"),
        ("end-to-end 0.5", "50.0%, 45.0 dB"),
        ("new a", "40.0%, 33.0 dB"),
        ("FORA 1:3", "35.0%, 31.0 dB"),
    ]


def test_same_seeds_are_enlarged_without_blur():
    strip = Image.fromarray(np.arange(8 * 24 * 3, dtype=np.uint8).reshape(8, 24, 3))
    sheet = np.asarray(same_seeds([("full run", "all of it", strip), ("end-to-end 0.5", "half", strip)]))
    pixels = np.asarray(strip).repeat(12, 0).repeat(12, 1)
    tile = pixels[:, :96]
    found = [x for x in range(sheet.shape[1] - 96) if (sheet[24:120, x : x + 96] == tile).all()]
    assert len(found) == 1 and (sheet[24 + 99 : 24 + 99 + 96, found[0] : found[0] + 96] == tile).all()
    with pytest.raises(StepMaskError, match="of one size"):
        same_seeds([("a", "", strip), ("b", "", strip.resize((48, 16)))])
