"""Figures of masks: how often each site computes, the whole decision cell by cell, and the learned scores.

They are matplotlib Figure objects without pyplot, so nothing global is touched and no window opens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from stepmask.errors import StepMaskError
from stepmask.liveness import Plan, State
from stepmask.mask import StepMask
from stepmask.pictures.labels import WITHIN, Row, is_nested, rows_for, short_name, shown_states, states_of

BLUE, GREEN, LIGHT, PALE = "#0b4f8a", "#2e9c84", "#f2b45c", "#e9e9e9"
"""Compute, forecast, reuse, dead: apart in hue for every kind of colour vision, and in brightness when printed grey."""
EDGE = "#b5b5b5"

ROW_INCHES, TABLE_INCHES = 0.19, 24.0
"""How high a row is, and a table at most: rows of taller ones are lower."""
_COLOURS = {State.dead: PALE, State.reuse: LIGHT, State.compute: BLUE, State.forecast: GREEN, WITHIN: "white"}


def count_computes(compute: np.ndarray, window: int = 5) -> np.ndarray:
    """Count (T, B) bool per site in each run of `window` steps, the last may be shorter: (ceil(T / window), B) int."""
    return np.add.reduceat(compute.astype(int), np.arange(0, len(compute), window), axis=0)


def heatmap(mask_or_plan: StepMask | Plan, window: int = 5) -> Figure:
    """Draw how often sites compute: sites from input (top) to output, steps from noise (left), `window` per cell.

    Rows are those of `grid`. This is Figure 6 of arXiv 2603.19939.

    Args:
        mask_or_plan: A mask, of which the cells that say compute are counted; or a plan, of which those that run.
        window: Number of steps counted together.
    """
    states = states_of(mask_or_plan)
    compute, forecast = states == State.compute, states == State.forecast
    rows = rows_for(mask_or_plan.sites, states)
    counts = count_computes(compute[:, [row.site for row in rows]], window)
    figure, axes = site_table(rows, len(counts), column_inches=max(0.1, min(0.42, 12 / len(counts))))
    colours = ListedColormap(colormaps["Blues"](np.linspace(0.03, 0.97, window + 1)))
    norm = BoundaryNorm(np.arange(-0.5, window + 1), window + 1)
    axes.imshow(counts.T, cmap=colours, norm=norm, aspect="auto", interpolation="none")
    separate_blocks(axes, rows)
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
    below = "" if is_nested(rows) else f"{compute.mean():.1%} of all cells compute{also}"
    title(axes, f"Computes in every {window} steps", below)
    return figure


def grid(mask_or_plan: StepMask | Plan, macs_fraction: float | None = None) -> Figure:
    """Draw every cell: sites from input (top) to output, steps from noise (left) to image.

    What contains others has its row above theirs, and what lies within a site that rests is white. Blocks that are
    equal in every cell share their rows.

    Args:
        mask_or_plan: A plan, or a mask, which has no dead cells.
        macs_fraction: The share of the full run's MACs, which the title names.
    """
    states, planned = states_of(mask_or_plan), isinstance(mask_or_plan, Plan)
    rows, num_steps = rows_for(mask_or_plan.sites, states), len(states)
    figure, axes = site_table(rows, num_steps, column_inches=max(0.06, min(0.16, 12 / num_steps)), bottom=1.15)
    axes.pcolormesh(
        np.arange(num_steps + 1) - 0.5,
        np.arange(len(rows) + 1) - 0.5,
        states.T[[row.site for row in rows]],
        cmap=ListedColormap([_COLOURS[state] for state in sorted(_COLOURS)]),
        vmin=0,
        vmax=max(_COLOURS),
        edgecolors="white",
        linewidth=0.4 if num_steps <= 120 else 0,
    )
    axes.invert_yaxis()
    separate_blocks(axes, rows)
    ticks = np.arange(0, num_steps, max(1, -(-num_steps // 10)))
    times = (mask_or_plan.mask if planned else mask_or_plan).timesteps
    labels = [f"{step}\n{times[step]:{'.0f' if abs(times[step]) >= 10 else '.3g'}}" for step in ticks]
    axes.set_xticks(ticks, labels, fontsize=8)
    axes.set_xlabel("step, with its timestep below")
    shares = {state: "" if is_nested(rows) else f" {np.mean(states == state):.0%}" for state in _COLOURS}
    patches = [
        Patch(facecolor=_COLOURS[state], edgecolor=EDGE, linewidth=0.6 * (state == WITHIN), label=name + shares[state])
        for state, name in shown_states(states, planned).items()
    ]
    below = -1.05 / (figure.get_figheight() * axes.get_position().height)  # in heights of the table
    axes.legend(
        handles=patches, loc="lower left", bbox_to_anchor=(0.0, below), ncols=3 if len(patches) > 4 else 4,
        frameon=False, fontsize=9, borderaxespad=0, borderpad=0, handlelength=1, handleheight=1, columnspacing=1.2,
    )  # fmt: skip
    heading = "What runs at every step" if planned else "What the mask decides"
    title(axes, heading, "" if macs_fraction is None else f"{macs_fraction:.1%} of the full run's MACs")
    return figure


def score_histogram(mask: StepMask, bins: int = 40) -> Figure:
    """Draw a histogram of the learned scores, which all steps but the first and all sites but samplers have.

    This is Figure 7 of arXiv 2603.19939.

    Args:
        mask: A learned mask.
        bins: Number of bars between 0 and 1.

    Raises:
        StepMaskError: The mask has no scores.
    """
    if mask.scores is None:
        raise StepMaskError("this mask has no scores: only learned masks have, and resampling drops them")
    learned = [not short_name(site).endswith("sampler") for site in mask.sites]
    values = np.asarray(mask.scores)[1:, learned].ravel()
    if not values.size:
        raise StepMaskError("this mask has a single row, which is not learned: there are no scores to draw")
    share, edges = np.histogram(values, bins=bins, range=(0, 1))
    share = share / values.size
    figure = Figure(figsize=(6.4, 3.8))
    axes = figure.add_axes((0.11, 0.15, 0.86, 0.67))
    colours = [LIGHT if edge < 0.5 else BLUE for edge in edges[:-1]]
    axes.bar(edges[:-1], share, width=1 / bins, align="edge", color=colours, edgecolor="white", linewidth=0.5)
    axes.axvline(0.5, color="#444444", linewidth=1, linestyle=":")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("learned score; the cell computes above 0.5")
    axes.set_ylabel("share of cells")
    axes.spines[["top", "right"]].set_visible(False)
    decided = np.mean((values < 0.1) | (values > 0.9))
    title(axes, "Learned scores", f"{decided:.0%} of {values.size} cells lie within 0.1 of 0 or 1")
    return figure


def site_table(rows: Sequence[Row], columns: int, column_inches: float, bottom: float = 0.75) -> tuple[Figure, Axes]:
    """A figure with rows and columns; names at the left, set in where rows lie within others; `bottom` is in inches."""
    names = ["    " * row.level + row.label for row in rows]
    row_inches = min(ROW_INCHES, TABLE_INCHES / len(rows))
    inches_of_names = 0.075 * max(map(len, names))
    left, right, top = 0.35 + inches_of_names, 0.3, 0.75
    width, height = max(columns * column_inches, 4.2), row_inches * len(rows)
    total = (left + width + right, top + height + bottom)
    figure = Figure(figsize=total)
    axes = figure.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]))
    axes.set_yticks(range(len(rows)), names, fontsize=min(8, 60 * row_inches))
    axes.tick_params(length=0)
    if is_nested(rows):
        axes.tick_params("y", pad=72 * inches_of_names)
        for row, label in zip(rows, axes.get_yticklabels(), strict=True):
            label.set(ha="left", fontweight="bold" if row.begins and not row.level else "normal")
    axes.spines[:].set_visible(False)
    return figure, axes


def separate_blocks(axes: Axes, rows: Sequence[Row]) -> None:
    """A white line wherever a block of the model begins, and a thin grey one in it where blocks contain each other."""
    for i, row in enumerate(rows):
        if i and row.begins:
            axes.axhline(i - 0.5, color="white", linewidth=2.5)
            if is_nested(rows):
                axes.axhline(i - 0.5, color=EDGE, linewidth=0.5)


def title(axes: Axes, text: str, below: str = "") -> None:
    """A title at the left, with a smaller line under it."""
    axes.annotate(text, (0, 1), (0, 22), "axes fraction", "offset points", fontsize=12, fontweight="bold")
    axes.annotate(below, (0, 1), (0, 8), "axes fraction", "offset points", fontsize=9, color="#444444")
