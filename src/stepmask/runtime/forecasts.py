"""What a site that does not compute forecasts from the values that it has computed: a line, or a weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import MaskMismatchError
from stepmask.liveness import Plan
from stepmask.runtime.channels import ChannelGains, along_channels, channel_dim

Known = Sequence[tuple[int, list[Tensor]]]
"""Values of a site, the newest first, each with the row at which it was computed."""


def terms(rows: Sequence[int], at: int, count: int) -> np.ndarray:
    """(K, n): how much of each of n known values is in each of K terms of a forecast, in Newton's form.

    The first is the newest value; the second the slope through the newest two times the steps gone since; term k the
    k-th divided difference times the distances from the k newest. All terms with factor 1 are the polynomial through
    the newest K values.

    Args:
        rows: Rows of the known values, the newest first.
        at: The row of the forecast.
        count: K; terms that need more values than there are, are 0.
    """
    table = np.zeros((count, len(rows)))
    for k in range(min(count, len(rows))):
        distances = math.prod(at - row for row in rows[:k])
        for i in range(k + 1):
            table[k, i] = distances / math.prod(rows[i] - rows[j] for j in range(k + 1) if j != i)
    return table


def extrapolate(
    newest: Sequence[Tensor], second: Sequence[Tensor], distance: float, factors: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """``newest + distance * factor * (newest - second)``, where distance 1 is as far again as the two are apart.

    Factors, one to spread over each tensor, stand for 1 where there are none.
    """
    weights = [1 + distance] * len(newest) if factors is None else [1 + distance * factor for factor in factors]
    return [torch.lerp(old, new, weight) for new, old, weight in zip(newest, second, weights, strict=True)]


class Forecasts:
    """The forecasts of a plan, with its gains and weights."""

    def __init__(self, plan: Plan) -> None:
        self._gains = None if plan.gains is None else plan.gains.tolist()
        self._by_channel = ChannelGains(plan.sites, plan.channel_gains)
        self._names, self._weights = plan.sites, plan.weights
        self._made: dict[tuple, list[list[Tensor]]] = {}

    def num_values(self, site: int) -> int:
        """How many values a site's forecasts read."""
        return self._weights[site].shape[1] if site in self._weights else 2

    def gain(self, row: int, site: int) -> float:
        """The factor of the slope of a line."""
        return 1.0 if self._gains is None else self._gains[row][site]

    def factors(self, site: int, value: Sequence[Tensor]) -> list[Tensor] | None:
        """Factors of the slope of a line by channel, to spread over a value; None where all are 1."""
        return self._by_channel.of(site, value)

    def __call__(self, site: int, row: int, known: Known) -> list[Tensor]:
        """What a site hands out at a row, of the values known then; of one alone, that."""
        if site in self._weights:
            coefficients = self.coefficients(site, row, known)
            return [
                sum(factor * part for factor, part in zip(factors, parts, strict=True))
                for factors, *parts in zip(coefficients, *(parts for _, parts in known), strict=True)
            ]
        if len(known) < 2:
            return known[0][1]
        (row_1, newest), (row_2, second) = known[:2]
        distance = self.gain(row, site) * (row - row_1) / (row_1 - row_2)
        return extrapolate(newest, second, distance, self.factors(site, newest))

    def coefficients(self, site: int, row: int, known: Known) -> list[list[Tensor]]:
        """For each tensor of a value, what each known value is multiplied by in a forecast, to spread over it."""
        parts = known[0][1]
        if site not in self._weights:
            return self._of_a_line(site, row, known)
        key = site, row, *(at for at, _ in known), parts[0].device, parts[0].dtype
        if key not in self._made:
            weights = self._weights[site][row]
            counts = [part.shape[channel_dim(part)] for part in parts]
            if weights.shape[1] == 1:  # the same for all channels
                weights = weights.repeat(sum(counts), axis=1)
            if sum(counts) != weights.shape[1]:
                raise MaskMismatchError(
                    f"the mask has weights for {weights.shape[1]} channels of {self._names[site]}, whose values have "
                    f"{sum(counts)}: it was learned for another model; mask.with_actions(mask.actions) goes without"
                )
            by_value = terms([at for at, _ in known], row, len(weights)).T @ weights  # (n, C)
            spread = [torch.from_numpy(vector).split(counts) for vector in by_value]
            self._made[key] = [[along_channels(vectors[i], part) for vectors in spread] for i, part in enumerate(parts)]
        return self._made[key]

    def _of_a_line(self, site: int, row: int, known: Known) -> list[list[Any]]:
        (row_1, parts), *others = known
        if not others:
            return [[1.0] for _ in parts]
        distance = self.gain(row, site) * (row - row_1) / (row_1 - others[0][0])
        factors = self.factors(site, parts) or [1.0] * len(parts)
        return [[1 + distance * factor, -distance * factor] for factor in factors]
