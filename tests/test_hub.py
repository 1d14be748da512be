"""Masks and families from folders and the hub, which a stand-in plays here: no test reaches the network."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from refusal import check_refused
from stepmask import MaskFamily, StepMask, StepMaskError
from stepmask.cli.common.mask_files import load_mask, load_masks
from stepmask.errors import MaskFileError
from stepmask.family import Member


def mask(share: float = 0.5) -> StepMask:
    compute = np.ones((4, 2), dtype=bool)
    compute[1:] = share > 0.5
    return StepMask(compute=compute, sites=["a", "b"], timesteps=[3, 2, 1, 0])


def family() -> MaskFamily:
    return MaskFamily((Member(1.0, 60.0, mask(1.0)), Member(0.3, 30.0, mask(0.3))))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of repositories; what was asked of it."""
    root, asked = tmp_path / "hub", []

    class Api:
        def __init__(self, token=None):
            asked.append(("token", token))

        def create_repo(self, repo_id, private=None, exist_ok=False):
            if repo_id.count("/") != 1:
                raise HFValidationError(f"Repo id must be user/name: {repo_id!r}")
            asked.append(("private", private))
            (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

        def upload_file(self, path_or_fileobj, path_in_repo, repo_id, commit_message):
            shutil.copy(path_or_fileobj, root / repo_id / path_in_repo)
            asked.append(("message", commit_message))
            return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/1")

    def download(repo_id, name, revision=None, token=None):
        asked.append(("revision", revision))
        if not (root / repo_id / name).exists():
            raise EntryNotFoundError("404 Client Error.\n\nEntry Not Found for url: ...\nmore")
        return str(root / repo_id / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


@pytest.mark.parametrize(("make", "file"), [(mask, "mask.json"), (family, "family.json")])
def test_there_and_back(make, file, hub, tmp_path):
    shared = make()
    assert shared.push_to_hub("me/ddpm", private=True, token="t") == "hub/me/ddpm/commit/1"
    assert type(shared).from_pretrained("me/ddpm", revision="main") == shared
    wanted = [("token", "t"), ("private", True), ("message", f"Upload {file} with stepmask"), ("revision", "main")]
    assert hub == wanted
    shared.push_to_hub("me/ddpm", filename="half.json", commit_message="half")
    assert type(shared).from_pretrained("me/ddpm", filename="half.json") == shared


@pytest.mark.parametrize(("make", "file"), [(mask, "mask.json"), (family, "family.json")])
def test_from_a_folder(make, file, hub, tmp_path):
    make().save(tmp_path / file)
    assert type(make()).from_pretrained(tmp_path) == make() and not hub
    make().save(tmp_path / "other.json")
    assert type(make()).from_pretrained(str(tmp_path), filename="other.json") == make()


def test_names_that_are_none(tmp_path, monkeypatch):
    """What the hub's own library raises of a name, before it asks anyone; an empty one is not the folder of the day."""
    monkeypatch.chdir(tmp_path)
    mask().save("mask.json")
    check_refused("^an empty name", StepMask.from_pretrained, "", error=MaskFileError)
    check_refused("^an empty name", load_mask, Path("hub:"), None, error=MaskFileError)
    for name, file in (("me/none", "../../etc/passwd"), ("me/none", "/etc/passwd"), ("x" * 5000, None)):
        with pytest.raises(MaskFileError, match="neither as a folder nor on the hub: ") as raised:
            StepMask.from_pretrained(name, filename=file)
        assert len(str(raised.value)) < 6000


def test_what_is_not_there(hub, tmp_path, monkeypatch):
    with pytest.raises(MaskFileError, match=r"^no mask.json in me/none, neither .* hub: 404 Client Error\.$"):
        StepMask.from_pretrained("me/none")
    with pytest.raises(MaskFileError, match=r"no a.json in me/none at v1, "):
        StepMask.from_pretrained("me/none", filename="a.json", revision="v1")
    check_refused("cannot read mask", StepMask.from_pretrained, tmp_path, error=MaskFileError)

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("An error happened while trying to locate the file")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    check_refused("An error happened", StepMask.from_pretrained, "me/none", error=MaskFileError)
    with pytest.raises(StepMaskError, match=r"cannot write mask.json to ddpm on the hub: Repo id must be"):
        mask().push_to_hub("ddpm")


def test_a_hub_that_cannot_be_reached(monkeypatch):
    """As its library says it: by an error of the one that it asks with."""
    library = HfHubHTTPError.__bases__[0]

    def create_repo(self, *args, **kwargs):
        raise library("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    with pytest.raises(StepMaskError, match=r"cannot write mask.json to me/ddpm on the hub: no route to host"):
        mask().push_to_hub("me/ddpm", token="t")


def test_what_lies_there_is_not_trusted(hub):
    family().push_to_hub("me/ddpm", filename="mask.json")
    check_refused("not a mask file", StepMask.from_pretrained, "me/ddpm", error=MaskFileError)


def test_the_command_line_reads_them(hub, tmp_path):
    mask().push_to_hub("me/ddpm")
    family().push_to_hub("me/ddpm")
    from pathlib import Path

    assert load_mask(Path("hub:me/ddpm"), None) == mask()
    assert load_mask(Path("hub:me/ddpm"), 0.4) == mask(0.3)
    family().save(tmp_path / "family.json")
    assert load_masks([Path("hub:me/ddpm"), tmp_path / "family.json"]) == [mask(), mask(1.0), mask(0.3)]
