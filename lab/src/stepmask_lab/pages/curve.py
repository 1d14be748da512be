"""Quality against cost: one panel per model and number of steps, or per pair of quality and cost; a line per method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter, PercentFormatter

from stepmask.errors import StepMaskError
from stepmask_lab.pages.method_families import FULL, OURS, Style, family_of, in_order, styles_of
from stepmask_lab.pages.rows import REACH, Row, averaged, change_of, error_of, main_score, speedup_of, value_of

Cost = Literal["macs", "speedup"]

KEYS = ("model", "steps", "method", "setting", "macs", "psnr_mean", "psnr_min", "psnr_sem")
GREY = "#444444"


def curve(rows: Iterable[Mapping[str, Any]], against: Cost = "macs") -> Figure:
    """Draw the PSNR of a benchmark, one panel per model and number of steps.

    Args:
        rows: One mapping per measured point: ``model``, ``steps``, ``method``, ``setting`` (rows of the same setting
            are learning seeds and averaged), ``macs`` (share of the full run), ``psnr_mean``, ``psnr_min``,
            ``psnr_sem`` (dB).
        against: What is on the horizontal axis; the speed-up is that of the denoiser, ``speed.denoiser_speedup``.

    Raises:
        StepMaskError: There are no rows, or they lack something.
    """
    rows = _checked(rows)
    pairs = sorted({(row["model"], row["steps"]) for row in rows}, key=lambda pair: (pair[0], -pair[1]))
    styles = styles_of(row["method"] for row in rows)
    columns = math.ceil(math.sqrt(len(pairs)))
    figure, panels = _panels(math.ceil(len(pairs) / columns), columns, len(styles))
    for axes, pair in zip_longest((axes for line in panels for axes in line), pairs):
        axes.set_visible(pair is not None)
        if pair is not None:
            _draw(axes, [row for row in rows if (row["model"], row["steps"]) == pair], styles, against, "psnr")
            axes.set_title(f"{pair[0]}, {pair[1]} steps", loc="left", fontsize=11, fontweight="bold")
    _legend(figure, styles)
    return figure


def trade_offs(rows: Iterable[Mapping[str, Any]]) -> Figure:
    """Draw everything measured of one model at one number of steps: PSNR and Fréchet distance, by MACs and speed-up.

    Args:
        rows: As of `curve`; what was not measured gets no panel.

    Raises:
        StepMaskError: There are no rows, or they lack something.
    """
    rows = _checked(rows)
    name = main_score(rows)
    costs: list[Cost] = ["macs", *(["speedup"] if any(map(speedup_of, rows)) else [])]
    qualities = ["psnr", *([name] if name else [])]
    if len(costs) == 1:  # side by side, not one above the other
        pairs = [[(quality, "macs") for quality in qualities]]
    else:
        pairs = [[(quality, cost) for cost in costs] for quality in qualities]
    styles = styles_of(row["method"] for row in rows)
    figure, panels = _panels(len(pairs), len(pairs[0]), len(styles))
    for line, wanted in zip(panels, pairs, strict=True):
        for axes, (quality, cost) in zip(line, wanted, strict=True):
            _draw(axes, rows, styles, cost, quality)
    _legend(figure, styles)
    return figure


def _checked(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = list(rows)
    missing = sorted({key for row in rows for key in KEYS if key not in row})
    if missing or not rows:
        raise StepMaskError(f"rows of a benchmark need {', '.join(KEYS)}; missing: {', '.join(missing) or 'all rows'}")
    return averaged(rows)


def _panels(rows: int, columns: int, methods: int) -> tuple[Figure, Sequence[Sequence[Axes]]]:
    height = max(0.4 + 3.5 * rows, 0.5 + 0.21 * methods)
    figure = Figure(figsize=(2.6 + 4.7 * columns, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw(axes: Axes, rows: Sequence[Row], styles: Mapping[str, Style], against: Cost, quality: str) -> None:
    full = next((row for row in rows if row["method"] == FULL), None)
    if quality != "psnr" and full is not None and value_of(full, quality) is not None:
        axes.axhline(value_of(full, quality), color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        cheap = 0 if against == "macs" else 1  # the end where no method comes near
        axes.annotate(
            "full run", (cheap, value_of(full, quality)), (4 - 8 * cheap, 3), ("axes fraction", "data"),
            "offset points", ha="right" if cheap else "left", fontsize=8, color=GREY,
        )  # fmt: skip
    for method, style in styles.items():
        if method == FULL:
            continue
        points = sorted(_points([row for row in rows if row["method"] == method], against, quality))
        if points:
            x, y, error = zip(*points, strict=True)
            axes.errorbar(
                x, y, error if any(error) else None,
                color=style.colour, marker=style.marker, linestyle=style.line, linewidth=style.width,
                markersize=6.5 if method == OURS else 5, markerfacecolor=style.colour if style.filled else "white",
                elinewidth=0.8, capsize=1.5, zorder=4 if family_of(method).name == OURS else 3, label=method,
            )  # fmt: skip
    _dress(axes, against, quality)


def _points(rows: Sequence[Row], against: Cost, quality: str) -> list[tuple[float, float, float]]:
    """Cost, quality and half of its 95% interval, 0 where that is not known; of scores, that of the change if known."""
    found = []
    for row in rows:
        x = row["macs"] if against == "macs" else speedup_of(row)
        y = row["psnr_mean"] if quality == "psnr" else value_of(row, quality)
        change = change_of(row, quality)
        error = row["psnr_sem"] if quality == "psnr" else change[1] if change else error_of(row, quality)
        if x is not None and y is not None:
            found.append((x, y, REACH * (error or 0.0)))
    return found


def _dress(axes: Axes, against: Cost, quality: str) -> None:
    axes.margins(x=0.06, y=0.08)
    if against == "macs":
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("MACs, share of the full run (less is faster ←)")
    else:
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g×"))
        axes.set_xlabel("measured speed-up of the denoiser (→ faster)")
    if quality == "psnr":
        axes.set_ylabel("PSNR against the full run, dB (↑ better)")
    else:
        values = [value for line in axes.lines for value in line.get_ydata() if value > 0]
        if values and max(values) > 4 * min(values):
            axes.set_yscale("log")
            ticks = _ticks(min(values), max(values))
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(f"{quality} against real images (↓ better)")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _ticks(least: float, most: float) -> list[float]:
    """1, 2, 5, 10, ... from below the least to above the most."""
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ticks = [base * 10.0**decade for decade in decades for base in (1, 2, 5)]
    return [tick for tick in ticks if least / 1.3 <= tick <= most * 1.3]


def _legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    """Once for all panels, families together."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = in_order(handles)
    figure.legend(
        [handles[name] for name in names], names, loc="outside right upper", frameon=False, fontsize=8.5,
        handlelength=2.6, labelspacing=0.45,
    )  # fmt: skip
