"""How strongly forecasts extrapolate: gains, learned by gradients of the final images.

A line through two values overshoots here and falls short there, and errors of one sign add up over the steps. With its
table fixed, a mask leaves one number for each forecast to choose, and one for each channel of a site, which cost
nothing when it runs: a forecast goes along its slope times both. The gradient of the final images' PSNR by all of them
comes from one run back through the chain; what holds may forecast too, if it has two values, and begins at gain 0.

A site that contains others stands for all of them with one value, and deserves more: its forecasts are weighted sums of
the values computed last, with a number for each row, each term and each channel. Those begin as the line.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from stepmask.learning.budget import Budget
from stepmask.learning.end_to_end.config import EndToEnd, Tuning
from stepmask.learning.end_to_end.gradients.chain import Chain
from stepmask.learning.end_to_end.gradients.probe import forth_and_back
from stepmask.learning.end_to_end.tables import settle
from stepmask.learning.processes import Processes
from stepmask.liveness import State, make_plan
from stepmask.mask import Action, StepMask


class GainFit:
    """Gains and weights of one mask, by Adam.

    Args:
        mask: A settled mask over all sites.
        budget: What may be forecast, and of how many values, without costing anything.
        config: Whether channels have gains too, how far gains move, and how the chain is run.
        iterations: How many are to come.
    """

    def __init__(self, mask: StepMask, budget: Budget, config: EndToEnd, iterations: int) -> None:
        self._config, self._tuning = config, config.tuning
        self._iterations, self._done = iterations, 0
        self._graph = budget.graph
        start = with_weights(_with_forecasts(mask, budget), budget, config)
        states = make_plan(start, budget.graph).states
        self._free = (states == State.forecast) & (_computed_before(start.compute) >= 2)
        self._mask = start
        learned = any(part is not None for part in mask.forecasting().values())
        self._rate = self._tuning.learned_gain_rate if learned else self._tuning.gain_rate
        self._gains = np.ones(states.shape) if start.gains is None else start.gains.copy()
        self._channels = {site: vector.copy() for site, vector in (start.channel_gains or {}).items()}
        self._weights = {site: _WeightFit(table, self._tuning) for site, table in (start.weights or {}).items()}
        self._scalar = self._free.copy()
        self._scalar[:, [self._graph.names.index(site) for site in self._weights]] = False
        self._of_cells, self._of_channels = _Moments(), defaultdict(_Moments)

    @property
    def num_gains(self) -> int:
        """How many there are to choose."""
        return int(self._free.sum())

    @property
    def mask(self) -> StepMask:
        """The mask with the gains so far; a forecast of a negligible gain holds."""
        actions = self._mask.actions
        actions[self._scalar & (np.abs(self._gains) < self._tuning.negligible_gain)] = Action.hold
        return self._with_gains(actions)

    def step(
        self,
        pipe: object,
        batches: Sequence[tuple[Callable[[], Tensor], Tensor]],
        features: Callable[[Tensor], Tensor] = lambda images: images,
        processes: Processes | None = None,
    ) -> float:
        """One iteration: runs forth and back, as many as there are batches.

        Args:
            pipe: What samples.
            batches: What runs it and returns final images (n, ...), and (n, ...) features of the full run's.
            features: What is compared.
            processes: Those that share the batches out; this one alone where none are given.

        Returns:
            Mean of the errors' squares in dB, before the step.
        """
        plan = make_plan(self._with_gains(self._mask.actions), self._graph)
        count = sum(len(target) for _, target in batches)

        def of_log_squares(error: Tensor) -> Tensor:
            squares = error.flatten(1).square().sum(1).clamp_min(1e-20)
            return error * (2 / count / squares).view(-1, *[1] * (error.dim() - 1))

        def run(batch: tuple[Callable[[], Tensor], Tensor]) -> tuple[np.ndarray, dict, dict, Tensor]:
            call, target = batch
            chain = Chain(pipe, plan, len(target), 1, self._config)
            error = forth_and_back(chain, call, target, of_log_squares, features)
            effects = chain.effects
            by_channel = {site: _finite(found).sum((0, 1)) for site, found in effects.by_channel_gain.items()}
            by_weight = {site: _finite(found).sum((2, 3)) for site, found in effects.by_weight.items()}
            squares = error.flatten(1).double().square().mean(1).cpu()
            return _finite(effects.by_gain).sum((-1, -2)), by_channel, by_weight, squares

        found = (processes or Processes()).share(f"iteration {self._done} of gains", run, batches)
        gradient, by_channel, by_weight = np.zeros(self._gains.shape), {}, {}
        for of_cells, of_channels, of_weights, _ in found:
            gradient += of_cells
            for total, slopes_by_site in ((by_channel, of_channels), (by_weight, of_weights)):
                for site, slopes in slopes_by_site.items():
                    total[self._graph.names[site]] = total.get(self._graph.names[site], 0.0) + slopes
        self._descend(gradient, by_channel, by_weight)
        return float(10 * torch.cat([squares.log10() for *_, squares in found]).mean())

    def _with_gains(self, actions: np.ndarray) -> StepMask:
        return self._mask.with_actions(
            actions,
            gains=self._gains,
            channel_gains=self._channels,
            weights={site: fit.weights for site, fit in self._weights.items()},
            provenance=self._mask.provenance,
        )

    def _descend(
        self, gradient: np.ndarray, by_channel: Mapping[str, np.ndarray], by_weight: Mapping[str, np.ndarray]
    ) -> None:
        rate = self._rate * 0.5 * (1 + math.cos(math.pi * self._done / self._iterations))
        self._done += 1
        self._gains = np.where(self._scalar, self._gains - rate * self._of_cells.step(gradient), self._gains)
        for site, slopes in by_channel.items():
            gains = self._channels.get(site, np.ones(slopes.shape))
            self._channels[site] = gains - self._tuning.channel_share * rate * self._of_channels[site].step(slopes)
        for site, slopes in by_weight.items():
            self._weights[site].descend(slopes, rate)


class _WeightFit:
    """Weights of one site: those it began with, times a factor for each row and one for each channel, and more.

    The factors learn what all channels, or all rows, have in common, from little; what is added is free. How much of
    the newest value itself is handed out is left alone.

    Args:
        weights: (T, K, C) to begin with; C may be 1, for all channels.
        tuning: How far they move.
    """

    def __init__(self, weights: np.ndarray, tuning: Tuning) -> None:
        self._start, self._tuning = weights[:, 1:], tuning
        self._by_row, self._by_channel = np.ones((*self._start.shape[:2], 1)), np.ones((1, *self._start.shape[1:]))
        self._more = np.zeros(self._start.shape)
        self._moments = _Moments(), _Moments(), _Moments()

    @property
    def weights(self) -> np.ndarray:
        """(T, K, C)."""
        moved = self._start * self._by_row * self._by_channel + self._more
        return np.concatenate([np.ones_like(moved[:, :1]), moved], axis=1)

    def descend(self, gradient: np.ndarray, rate: float) -> None:
        """One step against a gradient (T, K, C)."""
        gradient = gradient[:, 1:]
        of_factor = gradient * self._start
        steps = (
            (of_factor * self._by_channel).sum(2, keepdims=True),
            (of_factor * self._by_row).sum(0, keepdims=True),
            gradient,
        )
        rows, channels, more = (moments.step(step) for moments, step in zip(self._moments, steps, strict=True))
        self._by_row = self._by_row - rate * rows
        self._by_channel = self._by_channel - rate * self._tuning.channel_share * channels
        self._more = self._more - rate * self._tuning.weight_share * more


class _Moments:
    """The moments of Adam."""

    def __init__(self) -> None:
        self._first = self._second = 0.0
        self._done = 0

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """Where to go, from -1 to 1: the mean of the gradients so far over their size."""
        self._done += 1
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.99 * self._second + 0.01 * gradient**2
        first, second = self._first / (1 - 0.9**self._done), self._second / (1 - 0.99**self._done)
        return first / (np.sqrt(second) + 1e-12)


def _finite(slopes: np.ndarray) -> np.ndarray:
    """Slopes with 0 in the place of what overflowed."""
    return np.nan_to_num(slopes, posinf=0.0, neginf=0.0)


def _computed_before(compute: np.ndarray) -> np.ndarray:
    """(T, B) number of earlier rows at which a site computes."""
    return np.cumsum(compute, axis=0) - compute


def with_weights(mask: StepMask, budget: Budget, config: EndToEnd) -> StepMask:
    """The mask with weights for the forecasts of sites that contain others: lines through the values they are made of.

    Of as many values as the cache has room for, up to what is asked for.
    """
    forecasting = mask.forecast.any(0)
    sites = [budget.graph.names[site] for site in budget.graph.within if forecasting[site]]
    for count in range(config.num_values, 1, -1):
        weights = {site: _line(mask, site, count) for site in sites}
        if budget.fits(mask.actions, weights):
            return replace(mask, weights=weights)
    return mask


def _line(mask: StepMask, site: str, num_values: int) -> np.ndarray:
    """(T, K, C) weights that do what a site's forecasts do now."""
    known = (mask.weights or {}).get(site)
    if known is not None:
        missing = max(0, num_values - known.shape[1])
        return np.pad(known, ((0, 0), (0, missing), (0, 0)))[:, :num_values]
    gains = np.ones(mask.num_rows) if mask.gains is None else mask.gains[:, mask.sites.index(site)]
    slopes = gains[:, None] * (mask.channel_gains or {}).get(site, np.ones(1))
    weights = np.zeros((mask.num_rows, num_values, slopes.shape[1]))
    weights[:, 0], weights[:, 1] = 1.0, slopes
    return weights


def _with_forecasts(mask: StepMask, budget: Budget) -> StepMask:
    """The mask with forecasts of gain 0 where it holds and has two values, unless that costs anything."""
    holds = (make_plan(mask, budget.graph).states == State.reuse) & (_computed_before(mask.compute) >= 2)
    actions = np.where(holds, Action.linear, mask.actions)
    gains = np.where(holds, 0.0, 1.0 if mask.gains is None else mask.gains)
    weights = None
    if mask.weights is not None:
        weights = {site: table.copy() for site, table in mask.weights.items()}
        for site, table in weights.items():
            table[holds[:, mask.sites.index(site)], 1:] = 0.0
    tables = mask.forecasting() | {"gains": gains, "weights": weights, "provenance": mask.provenance}
    wide = settle(mask.with_actions(actions, **tables), budget.graph)
    free = budget.cost_of(wide.actions) <= budget.cost_of(mask.actions) and budget.fits(wide.actions)
    return wide if free else mask
