"""Masks, families and recipes from folders, a registry and a hub, which a server on this machine is."""

import pickle
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError

import stepmask
from hub_server import TOKEN
from refusal import check_refused
from stepmask import MaskFamily, Recipe, StepMask
from stepmask.cli.common.mask_files import load_mask, load_masks
from stepmask.errors import MaskFileError
from stepmask.family import Member


def mask(share: float = 0.5) -> StepMask:
    compute = np.ones((4, 2), dtype=bool)
    compute[1:] = share > 0.5
    return StepMask(compute=compute, sites=["a", "b"], timesteps=[3, 2, 1, 0])


def family() -> MaskFamily:
    return MaskFamily((Member(1.0, 60.0, mask(1.0)), Member(0.3, 30.0, mask(0.3))))


def recipe() -> Recipe:
    return Recipe(num_inference_steps=4, mask=mask())


KINDS = pytest.mark.parametrize(
    ("make", "file"), [(mask, "mask.json"), (family, "family.json"), (recipe, "recipe.json")]
)


@KINDS
def test_there_and_back(make, file, hub, tmp_path):
    shared = make()
    assert shared.push_to_hub("me/ddpm", private=True).startswith(f"{hub.url}/me/ddpm/commit/")
    repository = hub.repositories["me/ddpm"]
    assert repository.private and repository.commits == [f"Upload {file} with stepmask"]
    assert type(shared).from_pretrained("me/ddpm", revision=repository.sha) == shared
    assert stepmask.load("me/ddpm") == stepmask.load(Path("hub:me/ddpm")) == shared
    shared.push_to_hub("me/ddpm", filename="half.json", commit_message="half")
    assert repository.commits[1:] == ["half"]
    assert type(shared).from_pretrained("me/ddpm", filename="half.json", token=TOKEN) == shared


@KINDS
def test_from_a_folder_and_a_file(make, file, hub, tmp_path):
    make().save(tmp_path / file)
    assert type(make()).from_pretrained(tmp_path) == stepmask.load(tmp_path) == stepmask.load(tmp_path / file) == make()
    make().save(tmp_path / "other.json")
    assert type(make()).from_pretrained(str(tmp_path), filename="other.json") == make() and not hub.asked


def test_the_registry_of_a_team_comes_before_the_hub(hub, tmp_path, monkeypatch):
    mask(1.0).push_to_hub("me/ddpm")
    (tmp_path / "team/me/ddpm").mkdir(parents=True)
    mask(0.3).save(tmp_path / "team/me/ddpm/mask.json")
    monkeypatch.setenv("STEPMASK_REGISTRY", str(tmp_path / "team"))
    del hub.asked[:]
    assert StepMask.from_pretrained("me/ddpm") == stepmask.load("me/ddpm") == mask(0.3) and not hub.asked
    assert stepmask.load("me/ddpm", revision="main") == mask(1.0)
    check_refused("did you mean me/ddpm", stepmask.load, "me/dpm", error=MaskFileError)
    (tmp_path / "mask.json").write_text("{}")
    says = r"^no mask.json in (\.\.|me)/(\.\.|team), neither as a folder, nor in the registry .*team, nor on the hub"
    for name in ("me/team", "hub:../.."):
        check_refused(says, StepMask.from_pretrained, name, error=MaskFileError)


def test_names_that_are_none(tmp_path, monkeypatch):
    """What the hub's own library raises of a name, before it asks anyone; an empty one is not the folder of the day."""
    monkeypatch.chdir(tmp_path)
    mask().save("mask.json")
    check_refused("^an empty name", StepMask.from_pretrained, "", error=MaskFileError)
    for name in ("", "hub:"):
        check_refused("^an empty name", stepmask.load, name, error=MaskFileError)
    for name, file in (("me/none", "../../etc/passwd"), ("me/none", "/etc/passwd"), ("x" * 5000, None)):
        with pytest.raises(MaskFileError, match="neither as a folder nor on the hub: ") as raised:
            StepMask.from_pretrained(name, filename=file)
        assert len(str(raised.value)) < 6000
    for name in ("masks/mask.json", "nothing", "/tmp/x/y"):
        check_refused(f"cannot read mask {name}", stepmask.load, name, error=MaskFileError)


def test_what_is_not_there(hub, tmp_path, monkeypatch):
    mask().push_to_hub("me/ddpm", filename="x.json", private=True)
    check_refused(r"no mask.json and no recipe.json and .* in me/ddpm, .*404", stepmask.load, "me/ddpm")
    check_refused(r"^no mask.json in me/none, .* 401 .*private", StepMask.from_pretrained, "me/none")
    check_refused(r"no mask.json in me/ddpm at v1, ", StepMask.from_pretrained, "me/ddpm", revision="v1")
    check_refused("has no mask.json and no recipe.json", stepmask.load, tmp_path, error=MaskFileError)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_stranger")
    check_refused("private", StepMask.from_pretrained, "me/ddpm", filename="y.json", error=MaskFileError)
    says = r"cannot write mask.json to me/ddpm on the hub: .*401"
    check_refused(says, mask().push_to_hub, "me/ddpm")
    check_refused(r"cannot write mask.json to a/b/c on the hub: Repo id must be", mask().push_to_hub, "a/b/c")


def test_a_hub_that_cannot_be_reached(hub, monkeypatch):
    """What was downloaded is there without it."""
    recipe().push_to_hub("me/ddpm")
    assert stepmask.load("me/ddpm") == recipe()
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the attempts of huggingface_hub
    huggingface_hub.close_session()  # its open connection would be answered still
    assert stepmask.load("me/ddpm") == recipe()
    check_refused("no mask.json in me/none", StepMask.from_pretrained, "me/none", error=MaskFileError)
    asked, download = [], huggingface_hub.hf_hub_download

    def noted(*args, local_files_only, **kwargs):
        asked.append(not local_files_only)
        return download(*args, local_files_only=local_files_only, **kwargs)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", noted)
    check_refused("no mask.json and no recipe.json and .* in me/none", stepmask.load, "me/none", error=MaskFileError)
    assert asked == [True, False, False, False], "one file is asked for, others are looked for in the cache"
    library = HfHubHTTPError.__bases__[0]  # by an error of the one that it asks with

    def create_repo(self, *args, **kwargs):
        raise library("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    check_refused(r"cannot write mask.json to me/ddpm on the hub: no route to host", mask().push_to_hub, "me/ddpm")


class Harmful:
    """Does harm where it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(Harmful()), "not valid JSON"),
        (b'{"format": "stepmask", "rows', "cut short"),
        (b"<html>sign in</html>", "not valid JSON"),
        (b"[1, 2]", "not a mask file"),
        (b'{"format": "stepmask-timings"}', "not a mask file"),
        (b'{"format": "stepmask", "format_version": 99}', "format version 99"),
    ],
)
def test_what_lies_there_is_not_trusted(content, says, hub):
    mask().push_to_hub("me/ddpm")
    hub.repositories["me/ddpm"].files |= {"mask.json": content, "mask.pkl": content}
    check_refused(says, stepmask.load, "me/ddpm", error=MaskFileError)
    check_refused(says, StepMask.from_pretrained, "me/ddpm", filename="mask.pkl", error=MaskFileError)


def test_a_family_where_a_mask_is_wanted(hub):
    family().push_to_hub("me/ddpm", filename="mask.json")
    check_refused("a family of masks, not a mask file", StepMask.from_pretrained, "me/ddpm", error=MaskFileError)


def test_the_command_line_reads_them(hub, tmp_path):
    mask().push_to_hub("me/ddpm")
    family().push_to_hub("me/ddpm")
    for name in ("hub:me/ddpm", "me/ddpm"):
        assert load_mask(Path(name), None) == mask()
        assert load_mask(Path(name), 0.4) == mask(0.3)
    family().save(tmp_path / "family.json")
    assert load_masks([Path("me/ddpm"), tmp_path / "family.json"]) == [mask(), mask(1.0), mask(0.3)]
    recipe().save(tmp_path / "recipe.json")
    check_refused("holds a recipe, not a mask", load_mask, tmp_path / "recipe.json", None)
