"""The recipes of a frontier are measured one by one, and a stopped run goes on."""

import json

import pytest

from stepmask import Recipe, evaluate
from stepmask.frontier import Frontier, Point
from stepmask_lab.benchmark.frontiers import FIRST_SEED, scored
from tiny import dit_pipeline

CALL = {"class_labels": [3, 7]}


def test_every_point_has_a_row(tmp_path):
    pipe, output, told = dit_pipeline(), tmp_path / "rows.json", []
    recipes = Recipe(num_inference_steps=3), Recipe(num_inference_steps=4, guidance="1100")
    points = tuple(Point("fewer steps", 3, 3, 20.0, 1.0, 2, recipe) for recipe in recipes[:1])
    points += (Point("guidance", 3, 3, 21.0, 1.0, 2, recipes[1]),)
    scored(pipe, Frontier(points[:1]), output, 2, call_kwargs=CALL, enough=35.0, tell=told.append)
    rows = scored(pipe, Frontier(points), output, 2, call_kwargs=CALL, enough=35.0, tell=told.append)
    assert rows == json.loads(output.read_text()) and len(rows) == len(told) == 2
    assert [row["way"] for row in rows] == ["fewer steps", "guidance"]
    assert rows[1]["macs_per_image"] == pytest.approx(rows[0]["macs_per_image"])
    seeds = range(FIRST_SEED, FIRST_SEED + 2)
    plain = evaluate(pipe, recipes[0], seeds=seeds, call_kwargs=CALL, speed=False, reference="converged")
    assert plain.against.startswith("the converged run") and plain.num_inference_steps == 3
