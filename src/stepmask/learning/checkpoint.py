"""Checkpoint: the state of learning on disk, in one format for every way to learn.

A checkpoint is a safetensors file with named arrays, JSON values, the identity of the run, and what the run has taken
so far. It is written whole or not at all. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from stepmask.errors import StepMaskError
from stepmask.files import mode_of, write_atomically
from stepmask.learning.effort import Effort
from stepmask.mask import EFFORT

SHOWN = 4
"""At most so many differences within a dictionary are named."""

ADVICE = "delete it to begin anew, or give another file"


class Checkpoint:
    """Named arrays and values of one learning run, in memory and, where a path is given, on disk.

    Args:
        path: The file; None keeps the state in memory alone. Where the file exists, the state is read from it.
        identity: JSON values that must be the same when the run goes on.
        effort: What the run takes; goes on from what an interrupted one took.

    Attributes:
        arrays: Arrays by name.
        values: JSON values by name.
        resumed: Whether the state was read from the file.

    Raises:
        StepMaskError: The file is damaged, belongs to another run, or cannot be written.
    """

    def __init__(self, path: str | Path | None, identity: Mapping[str, Any], effort: Effort) -> None:
        self._path = None if path is None else Path(path)
        self._identity, self._effort = json.loads(json.dumps(identity)), effort
        self.arrays: dict[str, np.ndarray] = {}
        self.values: dict[str, Any] = {}
        self.resumed = self._path is not None and mode_of(self._path) is not None
        if self.resumed:
            self._read()
        else:
            self.save()  # says early if the file cannot be written

    def save(self) -> None:
        """Write everything, whole or not at all."""
        if self._path is None:
            return
        metadata = {
            "stepmask_checkpoint": json.dumps(self._identity, sort_keys=True),
            "values": json.dumps(self.values),
            "effort": json.dumps(self._effort.facts()),
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        metadata["checksum"] = _checksum(metadata, arrays)
        write_atomically(self._path, safetensors.numpy.save(arrays, metadata))

    def _read(self) -> None:
        try:
            with safe_open(self._path, framework="np") as file:
                metadata = file.metadata() or {}
                before = json.loads(metadata["stepmask_checkpoint"])
                values, effort = json.loads(metadata["values"]), json.loads(metadata["effort"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}
            if metadata.pop("checksum") != _checksum(metadata, arrays):
                raise ValueError("its checksum does not fit what it holds")
            before, values, took = dict(before), dict(values), {name: effort[name] + 0 for name in EFFORT}
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise StepMaskError(f"{self._path} is no state of an interrupted run ({error}): {ADVICE}") from error
        _check_identity(self._path, before, self._identity)
        self._effort.go_on_from(took)
        self.arrays, self.values = arrays, values


def _checksum(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """Changes with every bit of a state."""
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return json.dumps(found.hexdigest())


def _check_identity(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless a state is of the run that is to go on."""
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differ:
        what = "; ".join(_difference(key, before.get(key), now.get(key)) for key in differ)
        raise StepMaskError(f"{path} belongs to another run ({what}): {ADVICE}")


def _difference(name: str, before: Any, now: Any) -> str:
    """A difference in words; within dictionaries, what differs in them."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(_difference(f"{name}.{key}", before.get(key), now.get(key)) for key in keys[:SHOWN])
    return f"{name} was {before!r}, now {now!r}"
