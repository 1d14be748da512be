"""A checkpoint survives a kill at any moment."""

import pytest

from stepmask_lab.reference import checkpoints


class Killed(Exception):
    pass


def writer(text: str, die: bool = False):
    def write(folder):
        folder.mkdir()
        (folder / "first").write_text(text)
        if die:
            raise Killed
        (folder / "second").write_text(text)

    return write


def read(folder) -> set[str]:
    return {(folder / name).read_text() for name in ("first", "second")}


def test_the_new_one_takes_the_place_of_the_old(tmp_path):
    folder = tmp_path / "checkpoint"
    assert not checkpoints.found(folder)
    for text in ("one", "two"):
        checkpoints.replace(folder, writer(text))
        assert checkpoints.found(folder) and read(folder) == {text}
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"], "nothing is left over"


def test_killed_while_writing(tmp_path):
    folder = tmp_path / "checkpoint"
    checkpoints.replace(folder, writer("one"))
    with pytest.raises(Killed):
        checkpoints.replace(folder, writer("two", die=True))
    assert checkpoints.found(folder) and read(folder) == {"one"}
    checkpoints.replace(folder, writer("three"))
    assert read(folder) == {"three"} and [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("last", [1, 2])
def test_killed_while_renaming(tmp_path, monkeypatch, last):
    folder = tmp_path / "checkpoint"
    checkpoints.replace(folder, writer("one"))
    original, renamed = type(folder).rename, []

    def rename(path, target):
        renamed.append(path)
        original(path, target)
        if len(renamed) == last:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(type(folder), "rename", rename)
        checkpoints.replace(folder, writer("two"))
    assert checkpoints.found(folder) and read(folder) == {"one" if last == 1 else "two"}
    checkpoints.replace(folder, writer("three"))
    assert read(folder) == {"three"} and [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
