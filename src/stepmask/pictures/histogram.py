"""Figure 7 of arXiv 2603.19939: learned scores gather at 0 and 1."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.pictures.figures import BLUE, LIGHT, title
from stepmask.pictures.labels import short_name


def score_histogram(mask: StepMask, bins: int = 40) -> Figure:
    """Draw a histogram of the learned scores, which all steps but the first and all sites but samplers have.

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
