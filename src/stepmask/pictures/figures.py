"""What all figures share: size, type, and the frame of a site-by-step table.

Figures are matplotlib Figure objects without pyplot, so nothing global is touched and no window opens.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stepmask.pictures.labels import group_starts, short_name

BLUE, GREEN, LIGHT, PALE = "#0b4f8a", "#2e9c84", "#f2b45c", "#e9e9e9"
"""Compute, forecast, reuse, dead: apart in hue for every kind of colour vision, and in brightness when printed grey."""

ROW_INCHES = 0.19


def site_table(sites: Sequence[str], columns: int, column_inches: float, bottom: float = 0.75) -> tuple[Figure, Axes]:
    """A figure with a row per site and `columns` columns, the sites' names at the left; `bottom` is in inches."""
    longest = max(len(short_name(site)) for site in sites)
    left, right, top = 0.35 + 0.075 * longest, 0.3, 0.75
    width, height = max(columns * column_inches, 4.2), ROW_INCHES * len(sites)
    total = (left + width + right, top + height + bottom)
    figure = Figure(figsize=total)
    axes = figure.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]))
    axes.set_yticks(range(len(sites)), [short_name(site) for site in sites], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure, axes


def separate_groups(axes: Axes, sites: Sequence[str]) -> None:
    """A white line wherever a new block of the model begins."""
    for start in group_starts(sites):
        axes.axhline(start - 0.5, color="white", linewidth=2.5)


def title(axes: Axes, text: str, below: str = "") -> None:
    """A title at the left, with a smaller line under it."""
    axes.annotate(text, (0, 1), (0, 22), "axes fraction", "offset points", fontsize=12, fontweight="bold")
    axes.annotate(below, (0, 1), (0, 8), "axes fraction", "offset points", fontsize=9, color="#444444")
