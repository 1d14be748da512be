"""Writes files whole or not at all; reads and writes JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stepmask.errors import MaskFileError, StepMaskError

_UMASK = os.umask(0o077)  # it can only be read by setting it, for all threads
os.umask(_UMASK)


MAX_BYTES = 512 * 2**20
"""Larger files are refused: the weights of all blocks of flux-dev at 50 steps take half of that."""

UNREADABLE = (OSError, RuntimeError, ValueError)
"""What a path may raise: a name that is too long, a circle of links, a null byte."""


def mode_of(path: str | Path) -> int | None:
    """What is behind a path, as `stat` has it; None where nothing is, or nothing that may be looked at."""
    try:
        return Path(path).stat().st_mode
    except UNREADABLE:
        return None


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder, whatever the path may be."""
    return stat.S_ISDIR(mode_of(path) or 0)


def is_file(path: str | Path) -> bool:
    """Whether a path is a file, whatever the path may be."""
    return stat.S_ISREG(mode_of(path) or 0)


def ready_folder(path: str | Path) -> Path:
    """Make the folder if it is not there.

    Raises:
        StepMaskError: It cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except UNREADABLE as error:
        raise StepMaskError(
            f"cannot write to folder {path} ({reason_of(error)}): choose one that you may write to"
        ) from error
    return path


def check_target(path: str | Path) -> bool:
    """See that a path can be that of a file, whether there is one or not; whether it has a folder to be made in.

    Raises:
        StepMaskError: It cannot.
    """
    try:
        target = _behind_links(Path(path))
        with contextlib.suppress(FileNotFoundError):
            target.stat()
        return not _is_stream(target)
    except UNREADABLE as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: str | Path, error: Exception) -> StepMaskError:
    return StepMaskError(f"cannot write {path} ({reason_of(error)}): choose a file in a folder that you may write to")


def write_atomically(path: str | Path, data: str | bytes) -> None:
    """Write `data` to a temporary file beside `path`, then rename it: what was there survives any failure.

    What stands for a stream that is open already (``/dev/stdout``), a pipe or a device is written to as it is, at its
    end.

    Raises:
        StepMaskError: The folder does not exist or must not be written.
    """
    data = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        target = _behind_links(Path(path))
        if _is_stream(target):
            with target.open("ab") as stream:
                stream.write(data)
            return
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".stepmask.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a machine that goes away may leave an empty file under the new name
        with contextlib.suppress(OSError):  # some network file systems know no modes
            temporary.chmod(0o666 & ~_UMASK)  # as an ordinary new file; temporary files start private
        temporary.replace(target)
    except UNREADABLE as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def _behind_links(path: Path) -> Path:
    """What a link points to, so that it stays a link; not beyond what stands for an open stream."""
    seen = set()
    while path.is_symlink() and not _is_open_stream(path):
        if path in seen:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        seen.add(path)
        path = path.parent / path.readlink()
    return path


def _is_stream(path: Path) -> bool:
    """Whether a path is an open stream, a pipe or a device, which nothing may take the place of."""
    return _is_open_stream(path) or not (mode_of(path) is None or is_file(path) or is_folder(path))


def _is_open_stream(path: Path) -> bool:
    """Whether a path is a number among the open files of a process, behind which any file may be."""
    return path.name.isdigit() and bool(re.fullmatch(r"/dev/fd|/proc/(.+/)?fd", str(path.parent.resolve())))


def reason_of(error: Exception) -> str:
    """What an error of the operating system says, in few words."""
    said = getattr(error, "strerror", None) or str(error)
    return f"{type(error).__name__}: {said}"


def read_bytes(path: str | Path, what: str, most: int = MAX_BYTES) -> bytes:
    """The content of a file that may come from anywhere.

    Raises:
        MaskFileError: It is not there, or has more than `most` bytes; says `what` it should be.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except UNREADABLE as error:
        raise MaskFileError(f"cannot read {what} {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > most:
        raise MaskFileError(f"{what} {path} has more than {most >> 20} MiB, which none needs: is it another file?")
    return data


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        MaskFileError: It is not there, too large, or not JSON; says `what` it should be.
    """
    data = read_bytes(path, what)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MaskFileError(f"{what} {path} is not valid JSON ({error}): it may be cut short; save it anew") from error


def read_versioned(path: str | Path, what: str, expected: str, version: int, instead: str) -> dict[str, Any]:
    """The content of a JSON file that says its format and the version of that.

    Args:
        path: Where it lies.
        what: What it should be, in a word or two.
        expected: The format.
        version: Of the format, the one that can be read.
        instead: What to do where the version is another, beside an update.

    Raises:
        MaskFileError: It is not there, too large, not JSON, or of another format or version.
    """
    content = read_json(path, what)
    if not isinstance(content, dict) or content.get("format") != expected:
        raise MaskFileError(f'{path} is no {what}: expected a JSON object with "format": "{expected}"')
    if content.get("format_version") != version:
        raise MaskFileError(
            f"{what} {path} has format version {content.get('format_version')!r:.80}, this stepmask reads version "
            f"{version}: update stepmask, or {instead}"
        )
    return content


@contextlib.contextmanager
def said_of(what: str) -> Iterator[None]:
    """Say in one sentence what is wrong with the content of a file, while it is made into a value.

    Raises:
        MaskFileError: An entry is missing, or says something impossible.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise MaskFileError(f"{what} cannot be used: {reason}") from error


def indented(content: Any) -> str:
    """JSON with an entry a line."""
    return json.dumps(content, indent=1, allow_nan=False)


def write_json(path: str | Path, content: Any, as_text: Callable[[Any], str] = indented) -> None:
    """Write JSON, whole or not at all.

    Raises:
        StepMaskError: The file cannot be written, or the content is nothing that JSON can hold.
    """
    try:
        text = as_text(content)
    except (TypeError, ValueError) as error:
        raise StepMaskError(
            f"cannot write {path}: it holds what JSON cannot ({error}); use plain numbers, strings, lists and "
            "dictionaries"
        ) from error
    write_atomically(path, text + "\n")
