"""What sites compute in a run, kept until gradients have come back, and the lines through it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepmask.learning.end_to_end.gradients.adjoints import Parts
from stepmask.liveness import Plan
from stepmask.runtime.forecasts import Forecasts, extrapolate

Before = list[tuple[int, Parts]]
"""The newest values before a row, as far as there are some, each with its row."""


class History:
    """Values by stream and site.

    Args:
        plan: The plan whose forecasts have gains.
        device: Where the denoiser is.
        offload: Whether values wait in host memory.
    """

    def __init__(self, plan: Plan, device: torch.device, offload: bool) -> None:
        self._device, self._offload = device, offload
        self.forecasts = Forecasts(plan)
        self._values: dict[tuple[int, int], list[tuple[int, Parts]]] = {}

    @property
    def waiting_bytes(self) -> int:
        """Bytes of all values; grows with the number of steps."""
        entries = (parts for values in self._values.values() for _, parts in values)
        return sum(part.numel() * part.element_size() for parts in entries for part in parts)

    def keep(self, stream: int, site: int, row: int, parts: Parts) -> None:
        """Add the newest value of a site."""
        kept = [part.detach().cpu() if self._offload else part.detach() for part in parts]
        self._values.setdefault((stream, site), []).append((row, kept))

    def before(self, stream: int, site: int, row: int) -> Before:
        """The newest values computed before a row, where the denoiser is: two, or as many as forecasts read."""
        most = self.forecasts.num_values(site)
        found = [entry for entry in self._values.get((stream, site), []) if entry[0] < row][-most:]
        return [(at, self._at_home(parts)) for at, parts in reversed(found)]

    def gain(self, row: int, site: int) -> float:
        """Of a cell's forecast."""
        return float(self.forecasts.gain(row, site))

    def factors(self, site: int, value: Parts) -> Sequence[Tensor] | None:
        """Gains of a site's channels, to spread over its value; None where all are 1."""
        return self.forecasts.factors(site, value)

    def ahead(self, site: int, before: Before, row: int, gain: float = 1.0, by_channel: bool = True) -> Parts:
        """The line through two values at `row`, its slope times `gain` and, if so, the gains of channels."""
        (row_1, newest), (row_2, second) = before[:2]
        factors = self.factors(site, newest) if by_channel else None
        return extrapolate(newest, second, gain * (row - row_1) / (row_1 - row_2), factors)

    def _at_home(self, parts: Parts) -> Parts:
        return [part.to(self._device) for part in parts] if self._offload else parts
