"""Files are written whole or not at all."""

import os
import threading
from pathlib import Path

import pytest

from stepmask import StepMaskError
from stepmask.files import write_atomically


def test_a_file_system_without_modes(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError("no modes here")

    monkeypatch.setattr(Path, "chmod", refuse)
    write_atomically(tmp_path / "mask.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mask.json"]
    assert (tmp_path / "mask.json").read_text() == "new"


def test_what_was_there_survives(tmp_path, monkeypatch):
    path = tmp_path / "mask.json"
    write_atomically(path, "old")
    assert path.stat().st_mode & 0o444, "others may read it as any new file"
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StepMaskError, match="No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["mask.json"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "mask.json")
    write_atomically(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "mask.json").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_atomically(tmp_path / "pipe", "new")
    reader.join(10)
    assert read == ["new"] and (tmp_path / "pipe").is_fifo()
