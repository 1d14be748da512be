"""The results that the repository shows are what the command makes of the raw ones beside them."""

import json
import re
from functools import cache
from pathlib import Path

import pytest

from stepmask import StepMask, describe, make_plan, measure_cost
from stepmask_lab import reference
from stepmask_lab.benchmark.methods import guided
from stepmask_lab.cli._pages import write_pages

RESULTS = Path(__file__).parents[2] / "results"


def test_the_page_of_results_is_up_to_date(tmp_path, monkeypatch, capsys):
    for module in ("stepmask.pictures", "stepmask_lab.pages.page"):  # numbers are compared, not pixels
        monkeypatch.setattr(f"{module}.save_png", lambda picture, path: path)
    for name in ("pages.page.trade_offs", "pages.curve", "pages.memory"):
        monkeypatch.setattr(f"stepmask_lab.{name}", lambda *drawn, **options: None)
    (tmp_path / "images").mkdir()
    for grid in (RESULTS / "images").glob("seeds-*.png"):
        (tmp_path / "images" / grid.name).touch()
    write_pages(RESULTS, tmp_path)
    made, shown = ((folder / "results.md").read_text(encoding="utf-8") for folder in (tmp_path, RESULTS))
    assert made == shown, "run stepmask benchmark -o lab/results --page lab/results"
    assert "results/images" not in shown and (RESULTS / "images" / "curve.png").stat().st_size < 300_000


@cache
def of_model(name):
    """Its graph, its cost and how it is guided."""
    pipe = reference.load(name)
    return describe(pipe), measure_cost(pipe, call_kwargs=guided(pipe)), guided(pipe)


@pytest.mark.parametrize("path", sorted((RESULTS / "masks").glob("*.json")), ids=lambda path: path.stem)
def test_the_masks_beside_the_results_are_those_that_were_measured(path):
    model, steps, method, setting, seed = re.fullmatch(
        r"(.*-cifar10)-(\d+)-(end-to-end)-(0\.\d+)-seed(\d)", path.stem
    ).groups()
    key = {"model": model, "steps": int(steps), "method": method, "setting": setting, "seed": int(seed)}
    rows = json.loads((RESULTS / f"{model}.json").read_text())["rows"]
    (row,) = [row for row in rows if key.items() <= row.items()]
    (graph, cost, call), mask = of_model(model), StepMask.load(path)
    mask.check(graph=graph)
    assert mask.num_rows == key["steps"] and mask.provenance["guidance_scale"] == call.get("guidance_scale")
    assert cost.fraction(make_plan(mask, graph)) == pytest.approx(row["macs"])


@pytest.mark.parametrize("classes", ["first", "other"])
def test_the_masks_beside_the_page_of_transfer_fit_their_model(classes):
    path = RESULTS / "transfer-masks" / f"dit-cifar10-20-transfer-{classes}-classes.json"
    (graph, cost, _), mask = of_model("dit-cifar10"), StepMask.load(path)
    mask.check(graph=graph)
    fraction = cost.fraction(make_plan(mask, graph))
    assert mask.num_rows == 20 and mask.channel_gains is not None and 0.45 < fraction <= 0.5
