"""What a search has measured, in memory and on disk: asked again, it answers at once.

A search is a deterministic function of its measurements. So an interrupted one is simply run again on the same file,
and goes through what it knows in moments.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from stepmask._files import write_atomically
from stepmask._mask_tables import Channels
from stepmask.learning._states import check_identity, damaged
from stepmask.learning.effort import Effort
from stepmask.learning.end_to_end.probe import Probe

_PROBE = ("square", "linear", "projections")


class Measured:
    """Results of evaluations and probes by what was measured.

    Args:
        path: Where to keep them; None keeps them in memory.
        identity: JSON values that must be the same when a search goes on.
        effort: What the search takes; kept too, and goes on from what an interrupted one took.

    Raises:
        StepMaskError: The file is damaged, belongs to another search, or cannot be written.
    """

    def __init__(self, path: str | Path | None, identity: dict[str, Any], effort: Effort | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._effort = effort or Effort()
        self._identity = json.loads(json.dumps(identity))
        self._arrays: dict[str, np.ndarray] = {}
        if self._path is not None and self._path.exists():
            self._load()
        elif self._path is not None:
            self.save()  # says early if it cannot be written

    def psnrs(self, key: str) -> np.ndarray | None:
        """PSNR in dB per image that was kept under this key."""
        return self._arrays.get(f"psnr.{key}")

    def keep_psnrs(self, key: str, values: np.ndarray) -> None:
        """Keep them."""
        self._arrays[f"psnr.{key}"] = np.asarray(values, dtype=np.float64)

    def latencies(self) -> np.ndarray | None:
        """(B + 1,) milliseconds that were kept: of each site, and of the rest."""
        return self._arrays.get("latencies")

    def keep_latencies(self, values: np.ndarray) -> None:
        """Keep them: measured again, they would differ, and the search with them."""
        self._arrays["latencies"] = np.asarray(values, dtype=np.float64)

    def objective(self) -> np.ndarray | None:
        """(2,) mean and spread of what the objective made of the first images; None where that is not known."""
        return self._arrays.get("objective")

    def keep_objective(self, facts: np.ndarray) -> None:
        """Keep them: functions that do other things may have one name."""
        self._arrays["objective"] = facts

    def probe(self, key: str) -> Probe | None:
        """The probe that was kept under this key."""
        if f"probe.{key}.size" not in self._arrays:
            return None
        parts = {name: self._arrays[f"probe.{key}.{name}"] for name in _PROBE}
        return Probe(**parts, size=int(self._arrays[f"probe.{key}.size"].item()))

    def keep_probe(self, key: str, probe: Probe) -> None:
        """Keep it."""
        for name in _PROBE:
            self._arrays[f"probe.{key}.{name}"] = getattr(probe, name)
        self._arrays[f"probe.{key}.size"] = np.array(probe.size)

    def gains(self, key: str) -> tuple[np.ndarray, np.ndarray | None, Channels | None] | None:
        """The table, the gains, and those by channel that were kept under this key."""
        if f"gains.{key}.actions" not in self._arrays:
            return None
        by_channel = f"gains.{key}.channels."
        names = [name for name in self._arrays if name.startswith(by_channel)]
        channels = {name.removeprefix(by_channel): self._arrays[name] for name in names}
        return self._arrays[f"gains.{key}.actions"], self._arrays.get(f"gains.{key}.gains"), channels or None

    def keep_gains(self, key: str, actions: np.ndarray, gains: np.ndarray | None, channels: Channels | None) -> None:
        """Keep them; no gains where all are 1."""
        self._arrays[f"gains.{key}.actions"] = actions
        if gains is not None:
            self._arrays[f"gains.{key}.gains"] = gains
        for site, vector in (channels or {}).items():
            self._arrays[f"gains.{key}.channels.{site}"] = vector

    def save(self) -> None:
        """Write everything, whole or not at all."""
        if self._path is not None:
            metadata = {
                "stepmask_search": json.dumps(self._identity, sort_keys=True),
                "effort": json.dumps(self._effort.facts()),
            }
            arrays = {name: np.ascontiguousarray(array) for name, array in self._arrays.items()}
            write_atomically(self._path, safetensors.numpy.save(arrays, metadata))

    def _load(self) -> None:
        try:
            with safe_open(self._path, framework="np") as file:
                metadata = file.metadata() or {}
                before, effort = json.loads(metadata["stepmask_search"]), json.loads(metadata["effort"])
                self._arrays = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise damaged(self._path, "search", error) from error
        check_identity(self._path, "search", before, self._identity)
        self._effort.go_on_from(effort)
