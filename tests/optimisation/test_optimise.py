"""optimise: every lever at a budget, from noise alone; resumed after an interrupt, and drawn."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import DDPMScheduler

import stepmask
from refusal import check_refused
from stepmask import MaskFileError, Recipe, TargetError
from stepmask.frontier import CHEAPER, FEWER_STEPS, GUIDANCE, RESOLUTION, TOGETHER, WAYS, Frontier, Point
from stepmask.optimisation.judge import Judge
from stepmask.optimisation.search import MOVES, Effort, Search, guidance_moves
from stepmask.runtime.task import Task
from stepmask.runtime.work import Steps
from tiny import FEWEST, ddim_pipeline, dit_pipeline, generator

FEW = {"num_images": 2, "num_held_back": 2, "iterations": 1, "enough": 35.0, "progress": False}
CALL = {"class_labels": [3, 7]}


@pytest.fixture(scope="module")
def found() -> Frontier:
    """All levers at two evaluations."""
    return stepmask.optimise(dit_pipeline(), [2], call_kwargs=CALL, mask_options=FEWEST, **FEW)


def test_every_way_keeps_to_its_budget(found):
    assert found.budgets == [2] and {point.way for point in found.points} >= {FEWER_STEPS, RESOLUTION, TOGETHER}
    assert {CHEAPER, GUIDANCE} <= {point.way for point in found.points}
    for point in found.points:
        assert 0 < point.work <= point.budget and point.images == 2
        assert point.recipe.provenance["way"] == point.way and point.recipe.scheduler["class"] == "DDIMScheduler"
    assert found.way(FEWER_STEPS)[0].recipe.num_inference_steps == 2
    assert all(point.recipe.resolution for point in found.way(RESOLUTION))
    assert all(point.recipe.guidance for point in found.way(GUIDANCE))
    assert all(point.recipe.mask for point in found.way(CHEAPER))


def test_a_point_is_what_evaluate_measures(found):
    """The same quality for the same noise, and the same work."""
    pipe, point = dit_pipeline(), found.way(RESOLUTION)[0]
    task = stepmask.runtime.task.Task(pipe, point.recipe.num_inference_steps, call_kwargs=CALL)
    assert stepmask.runtime.work.work_of(point.recipe, task).evaluations == point.work
    first = 2**31 + 50_000 + 2 * FEW["num_images"]
    seeds, steps = range(first, first + 2), int(found.facts["converged"].split()[2])
    converged = stepmask.evaluate(
        pipe, Recipe(num_inference_steps=steps), seeds=seeds, call_kwargs=CALL, speed=False
    ).full
    result = stepmask.evaluate(
        pipe, Recipe(**vars(point.recipe) | {"provenance": {}}), seeds=seeds, call_kwargs=CALL, speed=False,
        reference=converged,
    )  # fmt: skip
    assert result.psnr.mean == pytest.approx(point.psnr, abs=0.01) and result.evaluations == point.work


def test_budgets_in_macs_are_evaluations_times_what_one_takes(tmp_path):
    """The same recipes, and the unit goes with them."""
    plain = stepmask.optimise(dit_pipeline(), 2, call_kwargs=CALL, masks=False, **FEW)
    each = stepmask.measure_cost(dit_pipeline(), call_kwargs=CALL).step_macs / 1e9
    counted = stepmask.optimise(dit_pipeline(), 2 * each, unit="gmacs", call_kwargs=CALL, masks=False, **FEW)
    assert counted.unit == "gmacs" and plain.unit == "evaluations" and "unit" not in plain.facts
    for one, other in zip(plain.points, counted.points, strict=True):
        assert (one.way, one.psnr) == (other.way, other.psnr) and one.recipe.guidance == other.recipe.guidance
        assert other.work == pytest.approx(one.work * each) and other.budget == 2 * each
    assert counted.points[0].recipe.provenance["unit"] == "gmacs"
    counted.save(tmp_path / "frontier.json")
    assert Frontier.load(tmp_path / "frontier.json").unit == "gmacs"
    check_refused(r"no recipe takes at most 1e-06 gmacs", counted.at, 1e-6, error=TargetError)
    content = json.loads((tmp_path / "frontier.json").read_text())
    for unit in ("miles", ["ms"]):
        (tmp_path / "frontier.json").write_text(json.dumps({**content, "facts": {"unit": unit}}))
        check_refused("there is no unit", Frontier.load, tmp_path / "frontier.json", error=MaskFileError)


def test_budgets_in_time_are_of_steps_that_were_timed(monkeypatch, tmp_path):
    """Where a step takes as long with guidance as without, dropping guidance saves nothing."""

    def timed(description, batch_size, inputs=None, rounds=5):
        sites = len(description.graph)
        return np.full(sites, 8.0 / sites), 2.0  # 10 ms, whatever the inputs are

    monkeypatch.setattr(stepmask.inspection.measure_cost, "_time_sites", timed)
    options = {"unit": "ms", "batch_size": 2, "call_kwargs": CALL, "masks": False, **FEW}
    found = stepmask.optimise(dit_pipeline(), 20, resume=tmp_path / "state", **options)
    assert found.unit == "ms" and found.facts["batch_size"] == 2 and found.facts["device"]
    assert found.way(FEWER_STEPS)[0].work == pytest.approx(20) and found.way(GUIDANCE) == []
    assert all(point.recipe.num_inference_steps == 2 for point in found.points), "smaller steps take as long"
    check_refused(r"at least 1 evaluation .* and one takes 10 ms here, got 5 ms", stepmask.optimise, dit_pipeline(), 5,
                  error=TargetError, **options)  # fmt: skip
    monkeypatch.setattr(stepmask.inspection.measure_cost, "_time_sites", None)
    again = stepmask.optimise(dit_pipeline(), 20, resume=tmp_path / "state", **options)
    assert [point.to_dict() for point in again.points] == [point.to_dict() for point in found.points]


@pytest.mark.slow
def test_masks_for_a_budget_in_time_are_learned_for_a_speed_up():
    options = {"unit": "ms", "call_kwargs": CALL, "mask_options": FEWEST, **FEW}
    each = Steps(Task(dit_pipeline(), 1, call_kwargs=CALL), 1).whole
    found = stepmask.optimise(dit_pipeline(), 2.5 * each, **options)
    masks = [point.recipe.mask for point in found.points if point.recipe.mask is not None]
    assert all("target_speedup" in mask.provenance["asked"] for mask in masks)
    assert all(0 < point.work <= point.budget for point in found.points)


def test_a_frontier_picks_the_best_that_it_has(found):
    best = found.best(3)
    assert best.psnr == max(point.psnr for point in found.points) and found.at(3) == best.recipe
    check_refused(r"no recipe takes at most 0\.1 evaluations; the cheapest takes", found.at, 0.1, error=TargetError)


def test_it_is_loaded_and_applied_like_a_family(found, tmp_path):
    found.save_pretrained(tmp_path)
    assert stepmask.load(tmp_path).at(3) == found.at(3) == stepmask.load(tmp_path / "frontier.json", at=3)
    pipe, recipe = dit_pipeline(), found.at(3)
    call = {**CALL, "num_inference_steps": recipe.num_inference_steps, "output_type": "np"}
    made = []
    for source, options in ((recipe, {}), (found, {"at": 3}), (tmp_path, {"at": 3})):
        with stepmask.apply(pipe, source, **options):
            made.append(pipe(**call, generator=generator())[0])
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])
    for source in (found, tmp_path):
        check_refused(
            r"frontier of \d+ recipes: pick one by how many evaluations.*it has 2 \(", stepmask.apply, pipe, source
        )
    for budget in ("six", float("nan"), 0):
        check_refused("a number of evaluations", found.at, budget, error=TargetError)


def test_files_say_it_all(found, tmp_path):
    path = tmp_path / "frontier.json"
    found.save(path)
    again = Frontier.load(path)
    assert [point.to_dict() for point in again.points] == [point.to_dict() for point in found.points]
    assert again.facts == found.facts
    content = json.loads(path.read_text())
    for change, says in (
        ({"format": "x"}, "is no frontier"),
        ({"format_version": 2}, "has format version 2"),
        ({"points": []}, "a list of 1 to"),
        ({"points": [{**content["points"][0], "way": "x"}]}, "there is no way 'x'"),
        ({"points": [{**content["points"][0], "psnr": None}]}, "finite numbers"),
        ({"points": [{}]}, "'way' is missing"),
    ):
        path.write_text(json.dumps({**content, **change}))
        check_refused(says, Frontier.load, path, error=MaskFileError)


@pytest.mark.slow
def test_an_interrupted_search_goes_on(tmp_path, monkeypatch):
    """To the same frontier, without measuring again what it knows."""
    state, options = tmp_path / "state", {"call_kwargs": CALL, "masks": False, **FEW}
    measured, made = [], Judge._made

    def interrupted(self, *args, **kwargs):
        measured.append(args)
        if len(measured) == 12:
            raise KeyboardInterrupt
        return made(self, *args, **kwargs)

    monkeypatch.setattr(Judge, "_made", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stepmask.optimise(dit_pipeline(), 2, resume=state, **options)
    stopped = len(measured)
    first = stepmask.optimise(dit_pipeline(), 2, resume=state, **options)
    rest = len(measured) - stopped
    again = stepmask.optimise(dit_pipeline(), 2, resume=state, **options)
    assert [point.to_dict() for point in again.points] == [point.to_dict() for point in first.points]
    assert len(measured) - stopped - rest < rest / 2
    check_refused("belongs to another run", stepmask.optimise, dit_pipeline(), 3, resume=state, **options)


@pytest.mark.parametrize(("steps", "full", "letters"), [
    (6, 3, ["111000", "1h1hh1", "1l1ll1"]),
    (4, 1, ["1000", "1hhh", "1lll"]),
])  # fmt: skip
def test_letters_of_guidance(steps, full, letters):
    assert list(Search._letters(steps, full)) == letters


def test_moves_of_guidance_keep_its_work():
    """Every letter and every place is within reach; a move that changes nothing is one too."""
    found = {move("1h10") for move in guidance_moves(4)}
    assert found == {"11h0", "1h01", "1h10", "1l10", "1010", "1h1h", "1h1l"}


def test_guidance_is_learned_step_by_step():
    """The best of all that can be reached, where moves that help lead there; fewer than are allowed are measured."""
    wanted, measured = "1l0h1", []

    def psnrs(recipe, images):
        letters = recipe.guidance
        measured.append(letters)
        wrong = sum(one != other for one, other in zip(letters, wanted, strict=True))
        return np.array([10.0 * letters.rindex("1") - wrong])

    judge = SimpleNamespace(choosing=(0, 2), work=lambda recipe: 3.0, psnrs=psnrs)
    search = Search(judge, dit_pipeline(), [3], Effort(), None, True, str, print)
    start = Recipe(num_inference_steps=5, guidance="11000")
    assert search._learned_guidance(start, 3).guidance == wanted and len(set(measured)) <= MOVES
    assert search._learned_guidance(start, 2.9) == start, "what takes more than the budget is not taken"
    plain = Recipe(num_inference_steps=5)
    assert search._learned_guidance(plain, 3) is plain


def test_what_is_refused():
    pipe = ddim_pipeline()
    for budget, says in (
        (0.5, "at least 1 evaluation of the denoiser each"),
        ("x", "a number of evaluations"),
        ([], "up to 50 numbers"),
    ):
        check_refused(says, stepmask.optimise, pipe, budget, error=TargetError, **FEW)
    check_refused("num_images must be a whole number of at least 2", stepmask.optimise, pipe, 3, num_images=1)
    pipe.scheduler = DDPMScheduler()
    check_refused("draws noise at every step", stepmask.optimise, pipe, 3, **FEW)


def test_the_picture():
    from stepmask.pictures.frontier import Reached, trade_off

    lines = {way: [Reached(2.0, 20.0, 1.0), Reached(4.0, 25.0, 0.5)] for way in WAYS}
    (axes,) = trade_off(lines, "model").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(WAYS)
    drawn = axes.containers[0].lines[0].get_xydata()
    assert np.array_equal(drawn, [[2.0, 20.0], [4.0, 25.0]]) and "evaluations" in axes.get_xlabel()


def test_the_table(found):
    from rich.console import Console

    console = Console(width=140)
    with console.capture() as capture:
        console.print(found.table())
    text = capture.get()
    assert all(point.way in text for point in found.points) and "2 held-back images" in text


def test_points_say_how_sure_they_are():
    point = Point(FEWER_STEPS, 3, 3, 20.0, 0.5, 16, Recipe(num_inference_steps=3))
    assert point.confidence == pytest.approx((19.02, 20.98)) and Point.from_dict(point.to_dict()) == point
