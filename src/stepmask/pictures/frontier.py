"""The picture of a frontier: quality over work, a line for each way to spend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#6e6e6e", "#0b4f8a", "#c4501e", "#2e9c84", "#8f5aa8", "#111111")
MARKS = ("o", "s", "^", "D", "v", "*")


class Reached(NamedTuple):
    """One point of a line."""

    work: float
    """What an image takes."""
    psnr: float
    """Mean PSNR in dB to the converged run."""
    half_interval: float
    """Half of the 95% interval of the mean, in dB."""


def trade_off(
    lines: Mapping[str, Sequence[Reached]],
    title: str,
    unit: str = "evaluations of the denoiser at full resolution, for an image",
) -> Figure:
    """Draw quality over work.

    Args:
        lines: By name of a way, its points from cheap to expensive; at most six ways.
        title: What stands above.
        unit: What work is counted in.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    for (name, points), colour, mark in zip(lines.items(), COLOURS, MARKS, strict=False):
        work, psnr, half = zip(*points, strict=True)
        axes.errorbar(work, psnr, half, color=colour, marker=mark, markersize=6, capsize=2, linewidth=1.4, label=name)
    axes.set_xlabel(f"work: {unit}")
    axes.set_ylabel("PSNR to the converged run, dB")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.legend(frameon=False, fontsize=9)
    return figure
