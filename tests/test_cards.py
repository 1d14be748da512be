"""Cards of what is shared, in folders and on the hub, and a page of many."""

import pytest
import yaml

from stepmask import MaskFamily, Recipe, StepMask, StepMaskError, evaluate, schedules
from stepmask.family import Member
from tiny import ddim_pipeline


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
    assert {"README.md", "mask.json"} <= set(hub.repositories["me/half"].files)


def test_what_a_card_cannot_say(pipe, mask, tmp_path):
    with pytest.raises(StepMaskError, match="user/name"):
        mask.save_pretrained(tmp_path, base_model="not an id!")
    with pytest.raises(StepMaskError, match="5"):
        mask.save_pretrained(tmp_path, evaluation=evaluate(pipe, schedules.fora(pipe, 5, 2), seeds=1, speed=False))
