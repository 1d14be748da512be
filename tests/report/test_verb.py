"""stepmask report: what it writes, and what it refuses."""

import pytest

from command_line import words
from stepmask import Recipe, StepMask
from stepmask.frontier import WAYS, Frontier, Point


def test_of_a_mask_alone_and_on_its_model(run, folder, mask_file, tmp_path):
    said = run("report", mask_file, "-o", tmp_path / "alone").stdout
    assert "index.html" in said and "open it in a browser" in said
    alone = (tmp_path / "alone" / "index.html").read_text()
    run("report", mask_file, "--model", folder, "-o", tmp_path / "planned")
    planned = (tmp_path / "planned" / "index.html").read_text()
    assert '"planned":false' in alone and '"planned":true' in planned and '"peakBytes":' in planned
    assert "fora.json" in alone and len(alone) < 200_000, "without a plot no plotting library"


def test_of_a_family_and_of_one_of_its_masks(run, family_file, tmp_path):
    run("report", family_file, "-o", tmp_path / "all")
    run("report", family_file, "--at", 0.5, "-o", tmp_path / "one")
    texts = [(tmp_path / name / "index.html").read_text() for name in ("all", "one")]
    assert [text.count('"planned":false') for text in texts] == [3, 1]


def test_of_recipes(run, folder, mask_file, tmp_path):
    mask = StepMask.load(mask_file)
    steps = mask.num_inference_steps
    plain, masked = (
        Recipe(num_inference_steps=steps, guidance="1" * steps),
        Recipe(num_inference_steps=steps, mask=mask),
    )
    masked.save(tmp_path / "recipe.json")
    points = Point(WAYS[0], 3, 3, 20.0, 1.0, 4, plain), Point(WAYS[5], 4, 3.5, 25.0, 1.0, 4, masked)
    Frontier(points, {"converged": "100 steps"}).save_pretrained(tmp_path / "frontier")
    run("report", tmp_path / "recipe.json", "--model", folder, "-o", tmp_path / "one")
    run("report", tmp_path / "frontier", "-o", tmp_path / "all")
    one, both = ((tmp_path / name / "index.html").read_text() for name in ("one", "all"))
    assert one.count('"planned":true') == 1 and "recipe.json" in one
    assert both.count('"planned":false') == 1 and both.count('"method":') == 2
    assert f"{'1' * steps} (1: both halves compute)" in both and "100 steps" in both
    plain.save(tmp_path / "plain.json")
    said = run("report", tmp_path / "plain.json", "--model", folder, "-o", tmp_path / "x", code=2)
    assert "there is no mask to show on a model" in words(said)
    said = run("report", tmp_path / "frontier", "--at", 2, "-o", tmp_path / "x", code=2)
    assert "no recipe takes at most 2 evaluations; the cheapest takes 3" in words(said)


@pytest.mark.parametrize("bad", ["nothing.json", "no json.json", "other.json"])
def test_what_is_no_mask(run, bad, tmp_path):
    (tmp_path / "no json.json").write_text("<html>")
    (tmp_path / "other.json").write_text('{"rows": 3}')
    words(run("report", tmp_path / bad, "-o", tmp_path / "page", code=2))
    assert not (tmp_path / "page").exists()


def test_what_does_not_go_together(run, folder, dit_folder, mask_file, tmp_path):
    out = tmp_path / "page"
    for says, *verb in (
        ("--at picks a mask from a family", mask_file, "--at", 0.5),
        ("give the model too, with --model", mask_file, "--call", "eta=0"),
        ("another model", mask_file, "--model", dit_folder),
        ("--at, --model goes with a mask or a family", folder, "--at", 0.0, "--model", folder),
        ("holds no results of a benchmark", folder),
    ):
        assert says in words(run("report", *verb, "-o", out, code=2))
    (tmp_path / "file").touch()
    assert "cannot write to folder" in words(run("report", mask_file, "-o", tmp_path / "file", code=2))
