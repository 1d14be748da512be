"""The tables of a mask, checked: cells, forecasts, scores, gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepmask.errors import StepMaskError

GAIN_DECIMALS, MAX_GAIN = 4, 100.0
CHANNEL_DECIMALS = 3

WEIGHT_DECIMALS = 4
NUM_VALUES = (2, 3, 4)
"""Of how many values forecasts may be weighted sums."""

Weights = Mapping[str, np.ndarray]
"""By site, (T, K, C): at each row a factor for each of K terms of the forecast and each channel of the value."""

Channels = Mapping[str, np.ndarray]
"""By site, (C,) factors for the channels of its value; of a value with several tensors those of one after the other."""


def boolean_table(
    values: Any, expected: str = "a mask's cells are 1 (compute) or 0 (hold); round scores first"
) -> np.ndarray:
    """A (T, B) table of cells, read-only; raises `expected` where a cell is neither 0 nor 1."""
    table = np.asarray(values)
    if table.ndim != 2 or 0 in table.shape:
        raise StepMaskError(f"a mask is a table of steps x sites, got shape {table.shape}")
    if table.dtype != bool:
        if not np.isin(table, (0, 1)).all():
            raise StepMaskError(expected)
        table = table.astype(bool)
    table = table.copy()
    table.flags.writeable = False
    return table


def forecast_table(values: Any, compute: np.ndarray) -> np.ndarray:
    """Where cells extrapolate, (T, B); None is nowhere."""
    values = np.zeros(compute.shape, dtype=bool) if values is None else values
    table = boolean_table(values, "a forecast table's cells are 1 (extrapolate) or 0")
    _check_shape("forecast", table, compute.shape)
    if (table & compute).any():
        raise StepMaskError("a cell computes or forecasts, not both")
    return table


def score_table(values: Any, shape: tuple[int, int]) -> np.ndarray:
    """Learned scores in [0, 1], (T, B)."""
    table = np.array(values, dtype=np.float32)
    _check_shape("scores", table, shape)
    if not ((table >= 0) & (table <= 1)).all():
        raise StepMaskError("scores must lie in [0, 1]")
    table.flags.writeable = False
    return table


def gain_table(values: Any, forecast: np.ndarray) -> np.ndarray | None:
    """Gains to so many decimals, 1 where a cell does not extrapolate; None where all are 1."""
    table = np.round(np.asarray(values, dtype=np.float64), GAIN_DECIMALS)
    _check_shape("gains", table, forecast.shape)
    table = np.where(forecast, table, 1.0)
    if not (np.abs(table) <= MAX_GAIN).all():
        raise StepMaskError(f"gains of forecasts must lie between -{MAX_GAIN:g} and {MAX_GAIN:g}")
    table.flags.writeable = False
    return None if (table == 1).all() else table


def channel_table(values: Mapping[str, Any], sites: Sequence[str], forecast: np.ndarray) -> Channels | None:
    """Factors by channel to so many decimals, of sites that forecast; None where all are 1."""
    if not isinstance(values, Mapping):
        raise StepMaskError("channel_gains must map names of sites to one number for each channel")
    strange = values.keys() - set(sites)
    if strange:
        raise StepMaskError(f"channel_gains are given for {min(strange, key=str)!r}, which is no site of the mask")
    found = {}
    for site, forecasts in zip(sites, forecast.any(0), strict=True):
        if not forecasts or site not in values:
            continue
        vector = np.round(np.asarray(values[site], dtype=np.float64), CHANNEL_DECIMALS)
        if vector.ndim != 1 or not vector.size:
            raise StepMaskError(f"channel_gains of {site!r} must be one number for each channel")
        if not (np.abs(vector) <= MAX_GAIN).all():
            raise StepMaskError(f"channel_gains of {site!r} must lie between -{MAX_GAIN:g} and {MAX_GAIN:g}")
        vector.flags.writeable = False
        if (vector != 1).any():
            found[site] = vector
    return found or None


def check_products(gains: np.ndarray, channel_gains: Channels, sites: Sequence[str]) -> None:
    """Raise where gains of cells and of channels together pass what either may be."""
    largest = dict(zip(sites, np.abs(gains).max(0), strict=True))
    for site, vector in channel_gains.items():
        if largest[site] * np.abs(vector).max() > MAX_GAIN:
            raise StepMaskError(
                f"gains times channel_gains of {site!r} must lie between -{MAX_GAIN:g} and {MAX_GAIN:g}: its forecasts "
                "would be no images otherwise"
            )


def weight_table(values: Mapping[str, Any], sites: Sequence[str], forecast: np.ndarray) -> Weights | None:
    """Weights of forecasts to so many decimals, those of a line where a row does not forecast; None for none."""
    if not isinstance(values, Mapping):
        raise StepMaskError("weights must map names of sites to a table of rows x terms x channels")
    strange = values.keys() - set(sites)
    if strange:
        raise StepMaskError(f"weights are given for {min(strange, key=str)!r}, which is no site of the mask")
    found = {}
    for site, forecasts in zip(sites, forecast.T, strict=True):
        if not forecasts.any() or site not in values:
            continue
        table = np.round(np.asarray(values[site], dtype=np.float64), WEIGHT_DECIMALS)
        if table.ndim != 3 or table.shape[:1] != forecasts.shape or table.shape[1] not in NUM_VALUES or not table.size:
            raise StepMaskError(
                f"weights of {site!r} must have the shape (rows, terms, channels) with {len(forecasts)} rows and "
                f"{NUM_VALUES[0]} to {NUM_VALUES[-1]} terms, got {table.shape}"
            )
        table[~forecasts] = weights_of_a_line(table.shape[1])
        if not (np.abs(table) <= MAX_GAIN).all():
            raise StepMaskError(f"weights of {site!r} must lie between -{MAX_GAIN:g} and {MAX_GAIN:g}")
        table.flags.writeable = False
        found[site] = table
    return found or None


def weights_of_a_line(num_terms: int) -> np.ndarray:
    """(K, 1): the newest value and the slope of the line through two, nothing of what bends it."""
    return (np.arange(num_terms) < 2).astype(np.float64)[:, None]


def _check_shape(name: str, table: np.ndarray, shape: tuple[int, int]) -> None:
    if table.shape != shape:
        raise StepMaskError(f"{name} must have the mask's shape {shape}, got {table.shape}")
