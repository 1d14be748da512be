"""What later rows owe to the values in a cache, gathered while a run goes backwards.

A value computed at row k is read as it is by holds; by forecasts at rows r with gains a as the newer of two,
``v + a (r - k) / (k - k1) * (v - v1)``, or, once q has computed, as the older, ``w + a (r - q) / (q - k) * (w - v)``.
So a few sums of cotangents by site are enough: of all reads, of forecasts weighted by their gain, and by that and their
row, and of the forecasts that will read it as the older value, weighted by gain and distance. Gains by channel weigh
the channels of a cotangent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepmask.runtime.channels import channel_dim

Parts = list[Tensor]
"""Value of a site: its tensors."""


def inner(cotangent: Parts, change: Parts, groups: int, num_images: int) -> Tensor:
    """(copies, images) inner products of (copies, groups * images * f, ...) with (groups * images * f, ...).

    Models of video fold f frames or places of an image into its batch.
    """
    total = 0
    for g, d in zip(cotangent, change, strict=True):
        products = torch.einsum("cbf,bf->cb", g.flatten(2).float(), d.flatten(1).float())
        total = total + products.view(len(products), groups, num_images, -1).sum((1, 3))
    return total


def inner_by_channel(cotangent: Parts, change: Parts, groups: int, num_images: int) -> Tensor:
    """(copies, images, C) inner products as in `inner`, by channel, of all tensors one after the other."""
    found = []
    for g, d in zip(cotangent, change, strict=True):
        products = (g.float() * d.float()).movedim(channel_dim(d) % d.dim() + 1, 2)
        by_channel = products.reshape(*products.shape[:3], -1).sum(3)
        found.append(by_channel.view(len(g), groups, num_images, -1, by_channel.shape[2]).sum((1, 3)))
    return torch.cat(found, dim=2)


def _add(to: Parts | None, parts: Parts, weight: float = 1.0) -> Parts:
    if to is None:
        return [weight * part for part in parts]
    return [t.add(part, alpha=weight) for t, part in zip(to, parts, strict=True)]


@dataclass
class _Owed:
    """Cotangents of one site, each a list of (copies, groups * images, ...)."""

    reads: Parts | None = None
    """All reads of the newest value."""
    lines: Parts | None = None
    """Forecasts from the newest value, weighted by their gains."""
    lines_by_row: Parts | None = None
    """Forecasts from the newest value, weighted by their gains and their rows."""
    older: Parts | None = None
    """Forecasts that read it as the older value, weighted by gain and distance from the newer one."""
    newer_row: int = 0
    """The row at which the newer value was computed."""
    newer: Parts | None = None
    """The newer value."""


class Adjoints:
    """What later rows owe to the cached values of every site, in one stream of calls."""

    def __init__(self) -> None:
        self._sites: dict[int, _Owed] = {}

    def read(
        self, site: int, row: int, gradient: Parts, gain: float | None, factors: Sequence[Tensor] | None = None
    ) -> None:
        """A row reads the cache of a site; with a gain, and factors by channel, it forecasts, None holds."""
        owed = self._sites.setdefault(site, _Owed())
        owed.reads = _add(owed.reads, gradient)
        if gain is not None:
            if factors is not None:
                gradient = [part * factor for part, factor in zip(gradient, factors, strict=True)]
            owed.lines = _add(owed.lines, gradient, gain)
            owed.lines_by_row = _add(owed.lines_by_row, gradient, gain * row)

    def of_newest(self, site: int, row: int, before: list[tuple[int, Parts]]) -> Parts | None:
        """Cotangent of the value computed at `row` by all later reads, given the values computed before it."""
        owed = self._sites.get(site)
        if owed is None:
            return None
        total = owed.reads
        if owed.lines is not None and before:
            per_row = 1 / (row - before[0][0])
            total = _add(_add(total, owed.lines_by_row, per_row), owed.lines, -row * per_row)
        if owed.older is not None:
            total = _add(total, owed.older, -1 / (owed.newer_row - row))
        return total

    def effect_of_holding(
        self,
        site: int,
        row: int,
        value: Parts,
        before: list[tuple[int, Parts]],
        effect: Callable[[Parts, Parts], Tensor],
    ) -> Tensor | float:
        """What later reads change by if the value computed at `row` is not: they read those before it.

        `effect` makes the inner product of cotangents with a change.
        """
        owed = self._sites.get(site)
        if owed is None:
            return 0.0
        total = 0.0
        row_1, held = before[0]
        back = [h - v for h, v in zip(held, value, strict=True)]
        if owed.reads is not None:
            total = total + effect(owed.reads, back)
        if owed.lines is not None:
            slope = [b / (row_1 - row) for b in back]
            since = _add(owed.lines_by_row, owed.lines, -row)
            total = total - effect(since, slope)
            if len(before) > 1:
                row_2, second = before[1]
                old_slope = [(h - s) / (row_1 - row_2) for h, s in zip(held, second, strict=True)]
                total = total + effect(_add(owed.lines_by_row, owed.lines, -row_1), old_slope)
        if owed.older is not None:
            q, newer = owed.newer_row, owed.newer
            turned = [(w - h) / (q - row_1) - (w - v) / (q - row) for w, h, v in zip(newer, held, value, strict=True)]
            total = total + effect(owed.older, turned)
        return total

    def close(self, site: int, row: int, value: Parts | None) -> None:
        """The row computes: what was the newest value is the older one for the rows before."""
        owed = self._sites.pop(site, None)
        if owed is None or owed.lines is None or value is None:
            return
        older = _add(owed.lines_by_row, owed.lines, -row)
        self._sites[site] = _Owed(older=older, newer_row=row, newer=value)
