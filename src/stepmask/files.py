"""Writes files whole or not at all, and reads JSON."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from stepmask.errors import MaskFileError, StepMaskError

_UMASK = os.umask(0o077)  # it can only be read by setting it, for all threads
os.umask(_UMASK)


def write_atomically(path: str | Path, data: str | bytes) -> None:
    """Write `data` to a temporary file beside `path`, then rename it: what was there survives any failure.

    Raises:
        StepMaskError: The folder does not exist or must not be written.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()  # what it points to is written, and it stays a link
    data = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe, or a device such as /dev/stdout
            path.write_bytes(data)
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a machine that goes away may leave an empty file under the new name
        with contextlib.suppress(OSError):  # some network file systems know no modes
            temporary.chmod(0o666 & ~_UMASK)  # as an ordinary new file; temporary files start private
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        reason = f"{type(error).__name__}: {error.strerror or error}"
        raise StepMaskError(
            f"cannot write {path} ({reason}): choose a file in a folder that you may write to"
        ) from error


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        MaskFileError: It is not there, or not JSON; says `what` it should be.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MaskFileError(f"cannot read {what} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MaskFileError(f"{what} {path} is not valid JSON ({error}): it may be cut short; save it anew") from error
