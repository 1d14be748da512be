"""Recipe: what it can say, its file, and files that are none."""

import json

import numpy as np
import pytest

from refusal import check_refused
from stepmask import MaskFileError, Recipe, Resolution, StepMask, StepMaskError

DDIM = {"class": "DDIMScheduler", "config": {"num_train_timesteps": 1000}}


def mask(steps: int = 4, **known) -> StepMask:
    compute = np.random.default_rng(0).random((steps, 3)) < 0.5
    compute[0] = True
    return StepMask(compute=compute, sites=("a", "b", "c"), timesteps=range(4 * steps, 0, -4), **known)


FULL = Recipe(
    num_inference_steps=4, timesteps=(900, 600, 300.5, 10), mask=mask(), guidance="11l0",
    resolution=Resolution(factor=0.5, switch=1, way="spectral"), scheduler=DDIM, provenance={"seed": 3},
)  # fmt: skip


@pytest.mark.parametrize("recipe", [
    Recipe(num_inference_steps=1),
    Recipe(num_inference_steps=3, sigmas=np.array([1.0, 0.5, 0.25])),
    Recipe(num_inference_steps=4, mask=mask(scheduler=DDIM)),
    FULL,
])  # fmt: skip
def test_files_say_it_all(tmp_path, recipe):
    path = tmp_path / "recipe.json"
    recipe.save(path)
    found = Recipe.load(path)
    assert found == recipe and found.to_dict() == recipe.to_dict() and str(found) == str(recipe)
    before = path.read_bytes()
    found.save(path)
    assert path.read_bytes() == before
    assert Recipe.from_pretrained(tmp_path) == recipe, "a folder, as a repository of the hub is one"


def test_a_file_is_readable(tmp_path):
    FULL.save(tmp_path / "recipe.json")
    lines = (tmp_path / "recipe.json").read_text().splitlines()
    assert '  "resolution": {"factor": 0.5, "switch": 1, "way": "spectral"},' in lines
    assert all(f'      "{row}"' in "\n".join(lines) for row in FULL.mask.to_dict()["rows"]), "a row of the mask a line"


def test_a_stored_file_of_format_1_loads_for_ever():
    stored = Recipe.load("tests/data/recipe_format_1.json")
    assert stored == FULL


def test_a_recipe_has_the_scheduler_of_its_mask():
    assert Recipe(num_inference_steps=4, mask=mask(scheduler=DDIM)).scheduler == DDIM
    assert FULL != Recipe(num_inference_steps=4) and FULL != "recipe"
    assert Recipe(num_inference_steps=4).is_plain and FULL.levers == ("timesteps", "mask", "resolution", "guidance")


@pytest.mark.parametrize(("says", "given"), [
    ("num_inference_steps must be a whole number from 1 to 4,000, got 0", {"num_inference_steps": 0}),
    ("got True", {"num_inference_steps": True}),
    ("timesteps or sigmas, not both", {"timesteps": (3, 2, 1, 0), "sigmas": (3, 2, 1, 0)}),
    ("timesteps has 2 numbers for 4 steps", {"timesteps": (3, 2)}),
    ("timesteps must fall", {"timesteps": (3, 2, 2, 1)}),
    ("sigmas must be finite numbers up to 1e.06, got nan", {"sigmas": (3, float("nan"), 2, 1)}),
    ("not below 0", {"timesteps": (3, 2, 1, -1)}),
    ("the mask is for 5 steps, the recipe has 4", {"mask": mask(5)}),
    ("a recipe is a StepMask, got str", {"mask": "mask.json"}),
    ("for another scheduler", {"mask": mask(scheduler=DDIM), "scheduler": {**DDIM, "class": "DDPMScheduler"}}),
    ("switches at step 4 of 4: the last step, 3,", {"resolution": Resolution(factor=0.5, switch=4)}),
    ("one letter per step: 1 .both halves", {"guidance": "11x1"}),
    ("guidance has 3 letters for 4 steps", {"guidance": "111"}),
    ("begins with 1", {"guidance": "0111"}),
    ("held before it was computed at this resolution", {
        "guidance": "110h", "resolution": Resolution(factor=0.5, switch=2)}),
])  # fmt: skip
def test_impossible_recipes(says, given):
    check_refused(says, Recipe, **{"num_inference_steps": 4, **given})


@pytest.mark.parametrize(("says", "given"), [
    ("between 0 and 1, 0.5 for example, got 1", {"factor": 1}),
    ("got 0", {"factor": 0}),
    ("finite numbers up to 1e.06, got 'half'", {"factor": "half"}),
    ("a whole number from 1 to", {"switch": 0}),
    ("renoise or spectral, got 'bicubic'", {"way": "bicubic"}),
])  # fmt: skip
def test_impossible_resolutions(says, given):
    check_refused(says, Resolution, **{"factor": 0.5, "switch": 1, **given})


@pytest.mark.parametrize(("says", "change"), [
    ("not a recipe file", {"format": "stepmask"}),
    ("format version 2, this stepmask reads version 1", {"format_version": 2}),
    ("format version True", {"format_version": True}),
    ("'steps' is no entry of a recipe", {"steps": 3}),
    ("'guidance' is missing", {"guidance": ...}),
    ('"num_inference_steps" must be a whole number, got str', {"num_inference_steps": "4"}),
    ('"provenance" must be a JSON object, got NoneType', {"provenance": None}),
    ('"timesteps" must be a list', {"timesteps": "9630"}),
    ("finite numbers up to", {"timesteps": [4, 3, 2, None]}),
    ("finite numbers up to", {"timesteps": [1e400, 3, 2, 1]}),
    ('"resolution" must hold', {"resolution": {"factor": 0.5}}),
    ('"scheduler" must hold "class" and "config"', {"scheduler": {"class": 3}}),
    ("not a mask file", {"mask": {"format": "x"}}),
    ("whole number from 1 to 4,000", {"num_inference_steps": 10**9, "timesteps": None, "mask": None, "guidance": None}),
    ('"noise_seeds" in provenance', {"provenance": {"noise_seeds": 3}}),
])  # fmt: skip
def test_files_that_are_none(tmp_path, says, change):
    content = {name: value for name, value in {**FULL.to_dict(), **change}.items() if value is not ...}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))
    check_refused(says, Recipe.load, path, error=MaskFileError)


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "file.json"
    FULL.save(path)
    check_refused("a recipe, not a mask file: Recipe.load reads it", StepMask.load, path, error=MaskFileError)
    path.write_text("{")
    check_refused("is not valid JSON", Recipe.load, path, error=MaskFileError)
    recipe = Recipe(num_inference_steps=1, provenance={"what": object()})
    check_refused("holds what JSON cannot", recipe.save, path, error=StepMaskError)
