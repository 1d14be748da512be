"""MaskFamily: picks by cost and quality, drops what is dominated, and refuses files that are none."""

import json

import numpy as np
import pytest

from refusal import check_refused
from stepmask import MaskFamily, MaskFileError, StepMask, StepMaskError, TargetError
from stepmask.family import Member
from stepmask.mask import Action


def member(macs: float, psnr: float, seed: int = 0) -> Member:
    actions = np.random.default_rng(seed).integers(0, 3, (5, 3))
    actions[0] = Action.compute
    mask = StepMask(compute=np.ones((5, 3), bool), sites=("a", "b", "c"), timesteps=range(5, 0, -1))
    return Member(macs, psnr, mask.with_actions(actions, provenance={"seed": seed}))


FAMILY = MaskFamily((member(0.4, 35.5, 1), member(0.7, 48.0, 2), member(0.55, 41.0, 3)))


def test_members_go_from_expensive_to_cheap():
    assert len(FAMILY) == 3 and [m.macs for m in FAMILY] == [0.7, 0.55, 0.4]


def test_members_that_a_cheaper_one_beats_are_dropped():
    kept = MaskFamily((*FAMILY.members, member(0.6, 40.9, 4), member(0.55, 40.0, 5), member(0.9, 48.0, 6)))
    assert [(m.macs, m.psnr) for m in kept] == [(0.7, 48.0), (0.55, 41.0), (0.4, 35.5)]
    assert kept == FAMILY


def test_at():
    by_seed = {m.mask.provenance["seed"]: m.mask for m in FAMILY}
    assert FAMILY.at(0.5) is by_seed[1] and FAMILY.at(0.55) is by_seed[3] and FAMILY.at(1.0) is by_seed[2]
    assert FAMILY.at(min_psnr=36) is by_seed[3] and FAMILY.at(min_psnr=1) is by_seed[1]
    assert FAMILY.at(0.9, min_psnr=36) is by_seed[3], "the cheapest that is good enough"


@pytest.mark.parametrize(("asked", "message"), [
    ({"target_macs": 0.3}, r"no mask of this family has at most 0\.3 of the cost; it has 0\.700 \(48\.0 dB\), "),
    ({"min_psnr": 50}, r"at least 50 dB; .* 0\.400 \(35\.5 dB\): learn for that target"),
    ({"target_macs": 0.5, "min_psnr": 40}, r"at most 0\.5 of the cost and at least 40 dB"),
    ({"target_macs": 60}, r"a share of the full run, such as 0\.6 for 60%, got 60"),
    ({"target_macs": "x"}, "target_macs must be a number, got 'x'"),
    ({}, r"ask for target_macs=0\.5, for min_psnr=40, or for both"),
])  # fmt: skip
def test_what_a_family_does_not_have(asked, message):
    check_refused(message, FAMILY.at, **asked, error=TargetError)


@pytest.mark.parametrize(("macs", "psnr"), [(0, 40.0), (1.5, 40.0), (float("nan"), 40.0), (0.5, float("inf"))])
def test_impossible_members(macs, psnr):
    check_refused("of a member is a", member, macs, psnr)


def test_save_and_load(tmp_path):
    path = tmp_path / "family.json"
    FAMILY.save(path)
    assert MaskFamily.load(str(path)) == FAMILY and MaskFamily.load(path).at(0.5) == FAMILY.at(0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["family.json"]


def test_what_cannot_be_written_leaves_the_file(tmp_path):
    path = tmp_path / "family.json"
    FAMILY.save(path)
    content = path.read_text()
    strange = member(0.5, 40.0).mask.with_actions(np.ones((5, 3), int), provenance={"seed": object()})
    with pytest.raises(StepMaskError, match=r"cannot write .*it holds what JSON cannot"):
        MaskFamily((Member(0.5, 40.0, strange),)).save(path)
    assert path.read_text() == content
    check_refused("cannot write", FAMILY.save, tmp_path / "nowhere" / "family.json")


def edited(change):
    def edit(content: str) -> str:
        values = json.loads(content)
        change(values)
        return json.dumps(values)

    return edit


def first_mask(**values):
    return edited(lambda content: content["masks"][0]["mask"].update(values))


DAMAGE = {
    "cut short": (lambda content: content[:-50], "is not valid JSON .*cut short"),
    "empty": (lambda content: "", "is not valid JSON"),
    "a list": (lambda content: "[]", "is no family of masks"),
    "a mask": (lambda content: json.dumps(FAMILY.at(1.0).to_dict()), "is no family of masks"),
    "deep": (lambda content: "[" * 10**5, "is not valid JSON"),
    "newer": (edited(lambda content: content.update(format_version=2)), r"format version 2, .*update stepmask"),
    "without masks": (edited(lambda content: content.pop("masks")), "'masks' is missing"),
    "no masks": (edited(lambda content: content.update(masks=[])), "at least one mask"),
    "masks of another kind": (edited(lambda content: content.update(masks={"a": 1})), '"masks" must be a list'),
    "too many masks": (edited(lambda content: content.update(masks=content["masks"] * 400)), "at most 1000"),
    "a member of another kind": (edited(lambda content: content.update(masks=[3])), "cannot be used"),
    "without a PSNR": (edited(lambda content: content["masks"][0].pop("psnr")), "'psnr' is missing"),
    "a PSNR in words": (edited(lambda content: content["masks"][1].update(psnr="good")), "cannot be used"),
    "a PSNR that is no number": (edited(lambda content: content["masks"][1].update(psnr=float("nan"))), "psnr"),
    "an impossible cost": (edited(lambda content: content["masks"][1].update(macs=-0.5)), "macs"),
    "a foreign mask": (first_mask(format="other"), "not a mask file"),
    "a mask from the future": (first_mask(format_version=99), "format version 99"),
    "a row that is too short": (first_mask(rows=["111", "11", "111", "111", "111"]), "cannot be used"),
    "an unknown action": (first_mask(rows=["111", "1?1", "111", "111", "111"]), "cannot be used"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_files_that_are_no_family(tmp_path, how):
    path, (damage, message) = tmp_path / "family.json", DAMAGE[how]
    FAMILY.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(MaskFileError, match=message) as caught:
        MaskFamily.load(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    check_refused(r"cannot read family .*No such file", MaskFamily.load, tmp_path / "none.json", error=MaskFileError)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    check_refused("not valid JSON", MaskFamily.load, tmp_path / "binary", error=MaskFileError)
    check_refused("cannot read", MaskFamily.load, tmp_path, error=MaskFileError)


def test_a_mask_is_no_family_and_a_family_no_mask(tmp_path):
    FAMILY.save(tmp_path / "family.json")
    with pytest.raises(MaskFileError, match=r"a family of masks, not a mask file: MaskFamily\.load reads it"):
        StepMask.load(tmp_path / "family.json")
