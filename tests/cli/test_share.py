"""stepmask share: masks with a card, on the hub and in a registry."""

import stepmask
from command_line import words


def test_on_the_hub_with_pictures(run, folder, mask_file, hub, tmp_path):
    options = ("--model", folder, "-n", 2, "--license", "apache-2.0", "--private")
    said = run("share", mask_file, "me/half", *options).stdout
    repository = hub.repositories["me/half"]
    assert repository.private and {"mask.json", "README.md", "side_by_side.png"} <= set(repository.files)
    card = repository.files["README.md"].decode()
    assert all(part in card for part in ("license: apache-2.0", "2 images", "speed-up of the denoiser"))
    assert "commit/" in said and "'me/half') uses it" in said
    assert stepmask.load("me/half") == stepmask.load(mask_file)


def test_in_a_registry(run, family_file, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPMASK_REGISTRY", str(tmp_path / "team"))
    run("share", family_file, "me/all", "--base-model", "me/model")
    assert (tmp_path / "team/me/all/README.md").exists() and not hub.asked
    assert stepmask.load("me/all") == stepmask.load(family_file)
    run("share", family_file, "hub:me/all")
    assert "family.json" in hub.repositories["me/all"].files


def test_what_cannot_be_shared(run, mask_file, hub, tmp_path):
    assert "a name to share under is USER/NAME" in words(run("share", mask_file, "half", code=2))
    assert "No such file" in words(run("share", tmp_path / "none.json", "me/half", code=2))
    assert "base_model is the id" in words(run("share", mask_file, "me/half", "--base-model", "not an id", code=2))
    assert not hub.repositories
