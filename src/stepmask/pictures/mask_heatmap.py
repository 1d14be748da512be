"""Figure 6 of arXiv 2603.19939: how often each site computes, counted over a few neighbouring steps."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from stepmask.liveness import Plan, State
from stepmask.mask import StepMask
from stepmask.pictures.figures import separate_groups, site_table, title
from stepmask.pictures.labels import states_of


def count_computes(compute: np.ndarray, window: int = 5) -> np.ndarray:
    """Count (T, B) bool per site in each run of `window` steps, the last may be shorter: (ceil(T / window), B) int."""
    return np.add.reduceat(compute.astype(int), np.arange(0, len(compute), window), axis=0)


def heatmap(mask_or_plan: StepMask | Plan, window: int = 5) -> Figure:
    """Draw how often sites compute: sites from input (top) to output, steps from noise (left), `window` per cell.

    Args:
        mask_or_plan: A mask, of which the cells that say compute are counted; or a plan, of which those that run.
        window: Number of steps counted together.
    """
    states, sites = states_of(mask_or_plan), tuple(mask_or_plan.sites)
    compute, forecast = states == State.compute, states == State.forecast
    counts = count_computes(compute, window)
    figure, axes = site_table(sites, len(counts), column_inches=max(0.1, min(0.42, 12 / len(counts))))
    colours = ListedColormap(colormaps["Blues"](np.linspace(0.03, 0.97, window + 1)))
    norm = BoundaryNorm(np.arange(-0.5, window + 1), window + 1)
    axes.imshow(counts.T, cmap=colours, norm=norm, aspect="auto", interpolation="none")
    separate_groups(axes, sites)
    if len(counts) <= 30:
        for (column, row), count in np.ndenumerate(counts):
            ink = "white" if count > 0.7 * window else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=ink)
    ends = np.minimum(np.arange(len(counts)) * window + window, len(compute)) - 1
    spans = [f"{i * window}–{end}" for i, end in enumerate(ends)]
    every = -(-len(spans) // 20)
    axes.set_xticks(range(0, len(spans), every), spans[::every], fontsize=8, rotation=45 if len(spans) > 10 else 0)
    axes.set_xlabel("steps, first is noisiest")
    also = f", {forecast.mean():.1%} forecast" if forecast.any() else ""
    title(axes, f"Computes in every {window} steps", f"{compute.mean():.1%} of all cells compute{also}")
    return figure
