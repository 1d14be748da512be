"""What the sites of one stream hold between steps, and how many bytes that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

Feature = Any
"""Value of a site: a tensor, or a tuple of tensors."""


def num_bytes(feature: Feature) -> int:
    """Bytes of all tensors in a feature."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(feature) if isinstance(leaf, Tensor))


def poison_like(feature: Feature) -> Feature:
    """NaN of the same shape that takes no memory: stands in for dead values, and shows if anything reads them."""

    def poison(tensor: Tensor) -> Tensor:
        return torch.full((), torch.nan, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)

    return tree_map_only(Tensor, poison, feature)


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
    """Cached features of one stream, by site."""

    def __init__(self, meter: Meter) -> None:
        self._features: dict[int, Feature] = {}
        self._poison: dict[int, Feature] = {}
        self._meter = meter

    def put(self, site: int, feature: Feature) -> None:
        """Keep the value of a site in place of its last."""
        self.drop(site)
        self._features[site] = feature
        self._meter.add(num_bytes(feature))

    def get(self, site: int) -> Feature:
        """The kept value of a site; KeyError where there is none."""
        return self._features[site]

    def drop(self, site: int) -> None:
        """Let the value of a site go, if there is one."""
        if site in self._features:
            self._meter.add(-num_bytes(self._features.pop(site)))

    def clear(self) -> None:
        """Let all values go."""
        for site in list(self._features):
            self.drop(site)

    def learn_shape(self, site: int, feature: Feature) -> None:
        """Remember what a dead value of this site has to look like."""
        self._poison[site] = poison_like(feature)

    def dead(self, site: int) -> Feature:
        """A stand-in that nothing may read."""
        return self._poison[site]
