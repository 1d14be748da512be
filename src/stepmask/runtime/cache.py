"""What the sites of one stream hold between steps, and how many bytes that is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from stepmask.errors import UnsupportedModelError
from stepmask.runtime.elsewhere import Away, sent
from stepmask.values import Value, num_bytes, tensors_in


def poison_like(value: Value) -> Value:
    """NaN of the same shape that takes no memory: stands in for dead values, and shows if anything reads them."""

    def poison(tensor: Tensor) -> Tensor:
        return tensor.new_full((), nan).expand(tensor.shape)

    return poison(value) if isinstance(value, Tensor) else tree_map_only(Tensor, poison, value)


def versions(value: Value) -> list[int]:
    """How often each tensor was written into; tensors made under inference mode do not count."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors_in(value)]


def shapes(value: Value | Away) -> list[torch.Size]:
    """Of each tensor in a value."""
    return value.shapes if isinstance(value, Away) else [tensor.shape for tensor in tensors_in(value)]


@dataclass
class Meter:
    """Bytes held now and at most, over all streams of a run."""

    held: int = 0
    peak: int = 0

    def add(self, amount: int) -> None:
        """Count `amount` bytes more, or fewer where negative."""
        self.held += amount
        self.peak = max(self.peak, self.held)


class Cache:
    """Cached values of one stream: by site, the newest first, each with the step at which it was computed.

    Args:
        meter: Counts their bytes, wherever they are.
        device: Where they wait until they are read; None leaves them where they were computed.
    """

    def __init__(self, meter: Meter, device: torch.device | None = None) -> None:
        self.device = device
        self._values: dict[int, list[tuple[int, Value | Away]]] = {}
        self._dead: dict[int, Value] = {}
        self._poison: dict[Hashable, Value] = {}  # one for all sites whose values are alike
        self._versions: dict[int, list[int]] = {}
        self._steps: dict[int, int] = {}
        self._meter = meter

    def reach(self, site: int, step: int) -> bool:
        """Note that a site runs at a step; whether it had run there already."""
        before, self._steps[site] = self._steps.get(site), step
        return before == step

    def put(self, site: int, value: Value, step: int = 0, keep: int = 1) -> None:
        """Add the newest value of a site, and keep so many, at least this one."""
        self.trim(site, keep - 1)
        before = self._values.get(site)
        if before and shapes(before[0][1]) != shapes(value):
            raise UnsupportedModelError(
                "the value of a site changed its shape in mid-run, while the denoiser's arguments did not, so that "
                "what was kept does not fit what comes: remove the mask for such runs"
            )
        self._values.setdefault(site, []).insert(0, (step, sent(value, self.device)))
        self._versions[site] = versions(value)
        self._meter.add(num_bytes(value))

    def get(self, site: int) -> Value:
        """The newest value of a site; KeyError where there is none."""
        return _here(self._values[site][0][1])

    def newest_step(self, site: int) -> int | None:
        """The step at which the newest value of a site was computed."""
        values = self._values.get(site)
        return values[0][0] if values else None

    def written(self, site: int) -> bool:
        """Whether something has written into the newest value of a site since it was put here."""
        newest = self._values[site][0][1]
        return not isinstance(newest, Away) and versions(newest) != self._versions[site]

    def known(self, site: int) -> list[tuple[int, Value]]:
        """The values of a site, the newest first, each with the step at which it was computed."""
        return [(step, _here(value)) for step, value in self._values[site]]

    def expect(self, site: int, count: int) -> None:
        """Begin to bring back so many of the newest values of a site, where they wait elsewhere."""
        for _, value in self._values.get(site, [])[:count]:
            if isinstance(value, Away):
                value.bring()

    def trim(self, site: int, keep: int) -> None:
        """Let all but the newest `keep` values of a site go."""
        values = self._values.get(site, [])
        while len(values) > keep:
            _, value = values.pop()
            self._meter.add(-(value.num_bytes if isinstance(value, Away) else num_bytes(value)))
        if not values:
            self._values.pop(site, None)

    def clear(self) -> None:
        """Let all values go."""
        for site in list(self._values):
            self.trim(site, 0)

    def learn_shape(self, site: int, value: Value) -> None:
        """Remember what a dead value of this site has to look like."""
        like = (value.shape, value.dtype, value.device) if type(value) is Tensor else site
        if like not in self._poison:
            self._poison[like] = poison_like(value)
        self._dead[site] = self._poison[like]

    def dead(self, site: int) -> Value:
        """A stand-in that nothing may read."""
        return self._dead[site]


def _here(value: Value | Away) -> Value:
    return value.brought() if isinstance(value, Away) else value
