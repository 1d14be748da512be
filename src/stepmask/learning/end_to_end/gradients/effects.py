"""What the cells of a run do to its final images, gathered row by row while the run goes backwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stepmask.learning.end_to_end.gradients.adjoints import Adjoints, Parts, inner, inner_by_channel
from stepmask.learning.end_to_end.gradients.history import Before, History
from stepmask.liveness import Plan, State
from stepmask.mask import Action
from stepmask.runtime.position import Position


class Effects:
    """First-order changes of the final images along each cotangent, by taking other actions.

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
        self._accounts_for_channels = by_channel
        self._adjoints: dict[int, Adjoints] = {}
        rows, sites = plan.states.shape
        self._effects = torch.zeros((rows, sites, len(Action), copies, num_images), device=device)
        self._slopes = torch.zeros((rows, sites, copies, num_images), device=device)
        self._channel_slopes: dict[int, Tensor] = {}

    @property
    def by_action(self) -> np.ndarray:
        """(T, B, actions, copies, images): change of the cotangent's inner product with the final image."""
        return _on_host(self._effects)

    @property
    def by_gain(self) -> np.ndarray:
        """(T, B, copies, images): change of that inner product by the gain of a forecast, per unit."""
        return _on_host(self._slopes)

    @property
    def by_channel_gain(self) -> dict[int, np.ndarray]:
        """By site that forecasts, (copies, images, C): the change by its channels' gains, summed over rows."""
        return {site: _on_host(slopes) for site, slopes in self._channel_slopes.items()}

    def scale(self, sizes: Tensor) -> None:
        """Multiply all that was found along each cotangent, (copies, images) as the numbers say."""
        sizes = sizes.to(self._effects)
        self._effects *= sizes
        self._slopes *= sizes
        for slopes in self._channel_slopes.values():
            slopes *= sizes[..., None]

    def owed(self, position: Position, site: int, before: Before) -> Parts | None:
        """Cotangent of a value that is computed here by all rows that read it later; None where none does."""
        return self._of_stream(position).of_newest(site, position.row, before)

    def computed(
        self,
        position: Position,
        groups: int,
        site: int,
        gradient: Parts,
        value: Parts,
        before: Before,
        owed: Parts | None,
    ) -> None:
        """Account for holding or forecasting a computed cell; then go on to the adjoints that the rows before see.

        `gradient` are the cotangents of its value, including what later rows owe to it: `owed`.
        """
        if not before:
            return
        row, adjoints, effect = position.row, self._of_stream(position), self._effect(groups)
        now = gradient if owed is None else _minus(gradient, owed)
        later = adjoints.effect_of_holding(site, row, value, before, effect)
        held = before[0][1]
        self._effects[row, site, Action.hold] += effect(now, _minus(held, value)) + later
        if len(before) > 1:
            ahead = self._history.ahead(site, before, row)
            self._effects[row, site, Action.linear] += effect(now, _minus(ahead, value)) + later
        adjoints.close(site, row, value)

    def cached(self, position: Position, groups: int, site: int, gradient: Parts, fresh: Parts | None) -> None:
        """Account for computing a cell that does not, or for forecasting instead of holding and back.

        `gradient` are the cotangents of what it handed out; `fresh` is what it would compute, where that is known.
        """
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
            self._slopes[row, site] += change
        if linear and self._accounts_for_channels:
            change = _minus(history.ahead(site, before, row, gain, by_channel=False), held)
            along = inner_by_channel(gradient, change, groups, self._num_images)
            self._channel_slopes[site] = self._channel_slopes.get(site, 0.0) + along
        if fresh is not None:
            now = effect(gradient, _minus(fresh, history.ahead(site, before, row, gain) if linear else held))
            effects[Action.compute] += now - adjoints.effect_of_holding(site, row, fresh, before, effect)
        adjoints.read(site, row, gradient, gain if linear else None, history.factors(site, held))

    def _of_stream(self, position: Position) -> Adjoints:
        return self._adjoints.setdefault(position.stream, Adjoints())

    def _effect(self, groups: int) -> Callable[[Parts, Parts], Tensor]:
        return lambda cotangent, change: inner(cotangent, change, groups, self._num_images)


def _on_host(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()


def _minus(a: Parts, b: Parts) -> Parts:
    return [x - y for x, y in zip(a, b, strict=True)]
