"""Files are written whole or not at all."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from refusal import check_refused
from stepmask import MaskFileError, StepMaskError
from stepmask.files import is_file, is_folder, read_bytes, write_atomically


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


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_what_an_open_stream_goes_to_is_written_on(name, tmp_path):
    """As in ``stepmask export -o /dev/stdout >> log``: what the file held before stays."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    log = tmp_path / "log"
    log.write_text("old line\n")
    code = f"from stepmask.files import write_atomically; write_atomically({name!r}, 'new')"
    for mode in ("ab", "r+b"):
        with log.open(mode) as stream:
            stream.seek(0, os.SEEK_END)
            subprocess.run([sys.executable, "-c", code], stdout=stream, cwd=tmp_path, check=True)
    assert log.read_text() == "old line\nnewnew" and {path.name for path in tmp_path.iterdir()} == {"link", "log"}


def test_a_pipe_behind_an_open_stream():
    code = "from stepmask.files import write_atomically; write_atomically('/dev/stdout', 'new')"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"new"


def test_paths_that_are_none(tmp_path):
    """A circle of links, a name that is too long, a null byte."""
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        check_refused("cannot write .*: choose a file in a folder", write_atomically, path, "new")
        check_refused("cannot read mask", read_bytes, path, "mask", error=MaskFileError)
        assert not is_file(path) and not is_folder(path)
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_file_that_is_too_large(tmp_path):
    check_refused(r"has more than 1 MiB, which none needs", read_bytes, "/dev/zero", "mask", 2**20, error=MaskFileError)
