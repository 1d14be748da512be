"""How similar neighbouring steps of a full run are: its output (Eqs. 9 and 10 of arXiv 2603.19939) and its sites."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stepmask.pictures.figures import BLUE, LIGHT, separate_blocks, site_table, title
from stepmask.pictures.labels import rows_for


def output_changes(delta: np.ndarray, weights: np.ndarray) -> Figure:
    """The output's relative change since the step before, and the weight that Eq. 10 makes of it.

    Args:
        delta: (T,), step 0 undefined.
        weights: (T,) w(t): 2 where the change is below a tenth of the largest, 1.5 below a half, else 1.
    """
    steps = np.arange(1, len(delta))
    share = delta[1:] / delta[1:].max()
    figure = Figure(figsize=(6.4, 3.8))
    axes = figure.add_axes((0.11, 0.15, 0.77, 0.67))
    axes.plot(steps, share, color=BLUE, marker="o", markersize=3, linewidth=1.5)
    for level, weight in ((0.1, 2), (0.5, 1.5)):
        axes.axhline(level, color="#444444", linewidth=0.8, linestyle=":")
        axes.annotate(f"below this: w = {weight:g}", (steps[0], level), (0, 3), "data", "offset points", fontsize=8,
                      color="#444444")  # fmt: skip
    axes.set_ylim(0, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step, 0 is noisiest")
    axes.set_ylabel("change, share of the largest", color=BLUE)
    right = axes.twinx()
    right.step(steps, weights[1:], where="mid", color=LIGHT, linewidth=2)
    right.set_ylim(0.9, 2.1)
    right.set_yticks([1, 1.5, 2])
    right.set_ylabel("w(t)", color="#a86a10")
    for one in (axes, right):
        one.spines[["top"]].set_visible(False)
    title(axes, "Change of the output from step to step", f"largest relative change {delta[1:].max():.3g}")
    return figure


def site_changes(sites: Sequence[str], changes: np.ndarray) -> Figure:
    """How much each site's value changes since the step before.

    Args:
        sites: B names in execution order.
        changes: (T, B) relative changes, NaN where there is none, as at step 0.
    """
    rows = rows_for(sites, changes)
    changes = changes[:, [row.site for row in rows]]
    figure, axes = site_table(rows, len(changes), column_inches=max(0.06, min(0.3, 12 / len(changes))), bottom=1.3)
    positive = changes[np.isfinite(changes) & (changes > 0)]
    norm = LogNorm(max(positive.min(), 1e-4), positive.max()) if positive.size else None
    image = axes.imshow(np.ma.masked_invalid(changes).T, cmap="Blues", norm=norm, aspect="auto", interpolation="none")
    separate_blocks(axes, rows)
    ticks = np.arange(0, len(changes), max(1, -(-len(changes) // 10)))
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axes.set_xlabel("step, 0 is noisiest")
    place = axes.get_position()
    height = figure.get_figheight()
    bar = figure.colorbar(
        image, cax=figure.add_axes((place.x0, 0.5 / height, place.width, 0.12 / height)), orientation="horizontal"
    )
    bar.ax.tick_params(labelsize=8)
    title(axes, "Change of each site from step to step", "L1 norm of the change over that of the value")
    return figure
