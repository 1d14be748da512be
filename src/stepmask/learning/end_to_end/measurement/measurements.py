"""What a search has measured: asked again, it answers at once.

A search is a deterministic function of its measurements. So an interrupted one is simply run again on the same
checkpoint, and goes through what it knows in moments.
"""

from __future__ import annotations

import numpy as np

from stepmask.learning.end_to_end.gradients.probe import Probe
from stepmask.mask_tables import Channels

_PROBE = ("square", "linear", "projections")


class Measurements:
    """Results of evaluations and probes by what was measured.

    Args:
        arrays: Those of a checkpoint, where the results are kept.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays

    def psnrs(self, key: str) -> np.ndarray | None:
        """PSNR in dB per image that was kept under this key."""
        return self._arrays.get(f"psnr.{key}")

    def keep_psnrs(self, key: str, values: np.ndarray) -> None:
        """Keep them."""
        self._arrays[f"psnr.{key}"] = np.asarray(values, dtype=np.float64)

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
