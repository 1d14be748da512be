"""Cards of what is shared, in folders and on the hub, and a page of many."""

from pathlib import Path

import pytest
import yaml

import stepmask
from stepmask import MaskFamily, Recipe, StepMask, StepMaskError, evaluate, schedules
from stepmask.cards import exhibit_of, sources_in
from stepmask.family import Member
from tiny import ddim_pipeline, dit_pipeline


@pytest.fixture(scope="module")
def pipe():
    return ddim_pipeline()


@pytest.fixture(scope="module")
def mask(pipe):
    return schedules.fora(pipe, 4, 2)


def header_of(card) -> dict:
    return yaml.safe_load(card.read_text().split("---")[1])


def test_a_card_says_what_a_mask_is_for_and_how_to_use_it(pipe, mask, tmp_path):
    folder = mask.save_pretrained(tmp_path / "me" / "half", base_model="google/ddpm", license="apache-2.0", pipe=pipe)
    assert StepMask.from_pretrained(folder) == mask
    assert {"README.md", "mask.json", "side_by_side.png"} < {path.name for path in folder.iterdir()}
    found = header_of(folder / "README.md")
    assert (found["base_model"], found["license"]) == ("google/ddpm", "apache-2.0") and "stepmask" in found["tags"]
    text = (folder / "README.md").read_text()
    psnr = evaluate(pipe, mask, seeds=8, speed=False).psnr.mean
    assert "stepmask.apply(pipe, " in text and f"{psnr:.1f} ±" in text and "num_inference_steps=4" in text
    assert "speed-up of the denoiser" in text
    for name in ("side_by_side.png", "google/ddpm", "4 steps"):
        assert name in text


@pytest.mark.parametrize(
    "make", [lambda mask: MaskFamily((Member(0.5, 30.0, mask),)), lambda mask: Recipe(num_inference_steps=4, mask=mask)]
)
def test_cards_of_families_and_recipes(make, mask, tmp_path):
    shared = make(mask)
    folder = shared.save_pretrained(tmp_path / "it")
    assert type(shared).from_pretrained(folder) == shared and "stepmask" in header_of(folder / "README.md")["tags"]


def test_a_card_of_somebody_else_is_left_as_it_is(mask, hub, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    mask.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    mask.push_to_hub("me/half")
    files = hub.repositories["me/half"].files
    assert b"stepmask.apply(pipe, " in files["README.md"]
    files["README.md"] = b"mine"
    mask.push_to_hub("me/half")
    assert files["README.md"] == b"mine" and {"mask.json", "map.png"} <= set(files)


def test_what_a_card_cannot_say(pipe, mask, tmp_path):
    with pytest.raises(StepMaskError, match="user/name"):
        mask.save_pretrained(tmp_path, base_model="not an id!")
    with pytest.raises(StepMaskError, match="5"):
        mask.save_pretrained(tmp_path, evaluation=evaluate(pipe, schedules.fora(pipe, 5, 2), seeds=1, speed=False))


def test_the_code_of_a_card_and_of_a_gallery_runs_where_it_was_written(mask, tmp_path, monkeypatch):
    """Masks of two owners have two names; a schedule of a pipeline knows its class."""
    monkeypatch.chdir(tmp_path)
    for owner in ("me", "you"):
        text = (mask.save_pretrained(f"team/{owner}/half") / "README.md").read_text()
        assert f'stepmask.load("team/{owner}/half")' in text and stepmask.load(f"team/{owner}/half") == mask
    assert "diffusers.DDIMPipeline" in text and "It makes sampling faster, with the model's weights untouched." in text
    assert sorted(exhibit_of(path).name for path in sources_in(Path("team"))) == ["team/me/half", "team/you/half"]


def test_a_schedule_knows_what_its_pipeline_is_called_with():
    asked = schedules.key_steps(dit_pipeline(), 4).provenance
    assert (asked["pipeline"], asked["condition"]) == ("DiTPipeline", "class_labels")
