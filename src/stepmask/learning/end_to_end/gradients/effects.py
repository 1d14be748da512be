"""What the cells of a run do to its final images, gathered row by row while the run goes backwards.

`ActionEffects` say what other actions would do; `ForecastEffects` what the gains and weights of forecasts do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stepmask.learning.end_to_end.gradients.adjoints import Adjoints, Parts, inner, inner_by_channel
from stepmask.learning.end_to_end.gradients.history import Before, History
from stepmask.liveness import Plan, State
from stepmask.mask import Action
from stepmask.runtime.forecasts import terms
from stepmask.runtime.position import Position


class Effects(Protocol):
    """What a chain tells while it goes backwards, the last row first, of each row the sites in order."""

    def owed(self, position: Position, site: int) -> Parts | None:
        """Cotangent of a value that is computed here by all rows that read it later; None where none does."""
        ...

    def computed(
        self, position: Position, groups: int, site: int, gradient: Parts, value: Parts, owed: Parts | None
    ) -> None:
        """A cell computes; `gradient` are the cotangents of its value, including what later rows owe to it."""
        ...

    def cached(self, position: Position, groups: int, site: int, gradient: Parts, fresh: Parts | None) -> None:
        """A cell hands out what it has; `gradient` are the cotangents of that, `fresh` is what it would compute."""
        ...

    def scale(self, sizes: Tensor) -> None:
        """Multiply all that was found along each cotangent, (copies, images) as the numbers say."""
        ...


class ActionEffects:
    """First-order changes of the final images along each cotangent, by taking other actions.

    Args:
        plan: What runs.
        history: What its sites have computed.
        copies: The number of cotangents.
        num_images: The number of images without their copies.
        device: Where the denoiser is: nothing is read from an accelerator before all is there.
    """

    def __init__(self, plan: Plan, history: History, copies: int, num_images: int, device: torch.device) -> None:
        self._states, self._history, self._num_images = plan.states.tolist(), history, num_images
        self._weighted, self._has_weights = Owed(history), set(plan.weights)
        self._adjoints: dict[int, Adjoints] = {}
        rows, sites = plan.states.shape
        within = plan.graph.within
        self._around = [[outer for outer, inside in within.items() if inside >> site & 1] for site in range(sites)]
        self._effects = torch.zeros((rows, sites, len(Action), copies, num_images), device=device)

    @property
    def by_action(self) -> np.ndarray:
        """(T, B, actions, copies, images): change of the cotangent's inner product with the final image."""
        return _on_host(self._effects)

    def scale(self, sizes: Tensor) -> None:
        """As `Effects.scale`."""
        self._effects *= sizes.to(self._effects)

    def owed(self, position: Position, site: int) -> Parts | None:
        """As `Effects.owed`."""
        if site in self._has_weights:
            return self._weighted.pop(position, site)
        before = self._history.before(position.stream, site, position.row)
        return self._of_stream(position).of_newest(site, position.row, before)

    def computed(
        self, position: Position, groups: int, site: int, gradient: Parts, value: Parts, owed: Parts | None
    ) -> None:
        """Account for holding or forecasting a computed cell; then go on to the adjoints that the rows before see.

        Where a site that contains this one rests, later rows find older values of both. Cells of sites with weights are
        not accounted for: these were learned for the rows at which it computes now.
        """
        if site in self._has_weights:
            return
        row, adjoints, effect = position.row, self._of_stream(position), self._effect(groups)
        before = self._history.before(position.stream, site, row)
        if not before:
            return
        now = gradient if owed is None else _minus(gradient, owed)
        held = before[0][1]
        self._effects[row, site, Action.hold] += effect(now, _minus(held, value))
        if len(before) > 1:
            ahead = self._history.ahead(site, before, row)
            self._effects[row, site, Action.linear] += effect(now, _minus(ahead, value))
        later = adjoints.effect_of_holding(site, row, value, before, effect)
        for resting in (site, *self._around[site]):
            if resting in self._has_weights:
                continue
            self._effects[row, resting, Action.hold] += later
            if len(self._history.before(position.stream, resting, row)) > 1:
                self._effects[row, resting, Action.linear] += later
        adjoints.close(site, row, value)

    def cached(self, position: Position, groups: int, site: int, gradient: Parts, fresh: Parts | None) -> None:
        """Account for computing a cell that does not, or for forecasting instead of holding and back."""
        if site in self._has_weights:
            self._weighted.read(position, site, self._states[position.row][site] == State.forecast, gradient)
            return
        row, adjoints, effect = position.row, self._of_stream(position), self._effect(groups)
        effects, history = self._effects[row, site], self._history
        before = history.before(position.stream, site, row)
        two = len(before) > 1
        held = before[0][1]
        linear = self._states[row][site] == State.forecast and two
        gain = history.gain(row, site)
        if two:
            change = effect(gradient, _minus(history.ahead(site, before, row), held))
            effects[Action.hold if linear else Action.linear] += -gain * change if linear else change
        if fresh is not None:
            now = effect(gradient, _minus(fresh, history.ahead(site, before, row, gain) if linear else held))
            effects[Action.compute] += now - adjoints.effect_of_holding(site, row, fresh, before, effect)
        adjoints.read(site, row, gradient, gain if linear else None, history.factors(site, held))

    def _of_stream(self, position: Position) -> Adjoints:
        return self._adjoints.setdefault(position.stream, Adjoints())

    def _effect(self, groups: int) -> Callable[[Parts, Parts], Tensor]:
        return lambda cotangent, change: inner(cotangent, change, groups, self._num_images)


class Owed:
    """Cotangents of computed values by all rows that read them later, one by one, whatever their weights.

    Args:
        history: What the sites have computed, and how their forecasts extrapolate.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._owed: dict[tuple[int, int, int], Parts] = {}  # by stream, site and the row at which it was computed

    def pop(self, position: Position, site: int) -> Parts | None:
        """What is owed to the value computed here."""
        return self._owed.pop((position.stream, site, position.row), None)

    def read(self, position: Position, site: int, forecast: bool, gradient: Parts) -> None:
        """A row reads the values of a site, with this cotangent of what it makes of them."""
        before = self._history.before(position.stream, site, position.row)
        if not forecast:
            before = before[:1]
        shares = self._history.forecasts.coefficients(site, position.row, before)
        for i, (at, _) in enumerate(before):
            key = position.stream, site, at
            parts = [part * of_part[i] for part, of_part in zip(gradient, shares, strict=True)]
            known = self._owed.get(key)
            self._owed[key] = parts if known is None else [a + b for a, b in zip(known, parts, strict=True)]


class ForecastEffects:
    """First-order changes of the final images along each cotangent, by gains and weights of forecasts.

    Args:
        plan: What runs.
        history: What its sites have computed.
        copies: The number of cotangents.
        num_images: The number of images without their copies.
        device: Where the denoiser is: nothing is read from an accelerator before all is there.
        by_channel: Whether to account for the gains of channels.
    """

    def __init__(
        self, plan: Plan, history: History, copies: int, num_images: int, device: torch.device, by_channel: bool
    ) -> None:
        self._states, self._history, self._num_images = plan.states.tolist(), history, num_images
        self._accounts_for_channels, self._weighted = by_channel, plan.weights
        self._owed = Owed(history)
        self._slopes = torch.zeros((*plan.states.shape, copies, num_images), device=device)
        self._channel_slopes: dict[int, Tensor] = {}
        self._weight_slopes: dict[tuple[int, int, int], Tensor] = {}

    @property
    def by_gain(self) -> np.ndarray:
        """(T, B, copies, images): change of the cotangent's inner product by the gain of a forecast, per unit."""
        return _on_host(self._slopes)

    @property
    def by_channel_gain(self) -> dict[int, np.ndarray]:
        """By site that forecasts, (copies, images, C): the change by its channels' gains, summed over rows."""
        return {site: _on_host(slopes) for site, slopes in self._channel_slopes.items()}

    @property
    def by_weight(self) -> dict[int, np.ndarray]:
        """By site with weights, (T, K, copies, images, C): the change by each of them, for each channel."""
        found = {}
        for (site, row, term), slopes in self._weight_slopes.items():
            shape = (*self._weighted[site].shape[:2], *slopes.shape)
            found.setdefault(site, np.zeros(shape))[row, term] = _on_host(slopes)
        return found

    def scale(self, sizes: Tensor) -> None:
        """As `Effects.scale`."""
        self._slopes *= sizes.to(self._slopes)
        for slopes in (*self._channel_slopes.values(), *self._weight_slopes.values()):
            slopes *= sizes.to(slopes)[..., None]

    def owed(self, position: Position, site: int) -> Parts | None:
        """As `Effects.owed`."""
        return self._owed.pop(position, site)

    def computed(
        self, position: Position, groups: int, site: int, gradient: Parts, value: Parts, owed: Parts | None
    ) -> None:
        """Nothing: no gain or weight has to do with it."""

    def cached(self, position: Position, groups: int, site: int, gradient: Parts, fresh: Parts | None) -> None:
        """Account for what a forecast is multiplied by, and hand its cotangent on to the values that it reads."""
        before = self._history.before(position.stream, site, position.row)
        forecasts = self._states[position.row][site] == State.forecast and len(before) > 1
        self._owed.read(position, site, forecasts, gradient)
        if forecasts and site in self._weighted:
            self._account_for_weights(position.row, before, groups, site, gradient)
        elif forecasts:
            self._account_for_gains(position.row, before, groups, site, gradient)

    def _account_for_weights(self, row: int, before: Before, groups: int, site: int, gradient: Parts) -> None:
        known = [parts for _, parts in before]
        table = terms([at for at, _ in before], row, self._weighted[site].shape[1])
        for term, shares in enumerate(table[: len(before)]):
            along = [sum(s * part for s, part in zip(shares, parts, strict=True)) for parts in zip(*known, strict=True)]
            self._add(self._weight_slopes, (site, row, term), gradient, along, groups)

    def _account_for_gains(self, row: int, before: Before, groups: int, site: int, gradient: Parts) -> None:
        history, held = self._history, before[0][1]
        change = _minus(history.ahead(site, before, row), held)
        self._slopes[row, site] += inner(gradient, change, groups, self._num_images)
        if self._accounts_for_channels:
            change = _minus(history.ahead(site, before, row, history.gain(row, site), by_channel=False), held)
            self._add(self._channel_slopes, site, gradient, change, groups)

    def _add(self, to: dict, key: object, gradient: Parts, along: Parts, groups: int) -> None:
        to[key] = to.get(key, 0.0) + inner_by_channel(gradient, along, groups, self._num_images)


def _on_host(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()


def _minus(a: Parts, b: Parts) -> Parts:
    return [x - y for x, y in zip(a, b, strict=True)]
