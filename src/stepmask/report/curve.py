"""PSNR against MACs or measured speed-up: one panel per model and number of steps, one line per method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, PercentFormatter

from stepmask.errors import StepMaskError

# Okabe-Ito colours, which all kinds of colour vision tell apart, with a marker each
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v"), ("#E69F00", "P"))
KEYS = ("model", "steps", "method", "setting", "macs", "psnr_mean", "psnr_min", "psnr_sem")


def curve(rows: Iterable[Mapping[str, Any]], against: Literal["macs", "speedup"] = "macs") -> Figure:
    """Draw a benchmark.

    Args:
        rows: One mapping per measured point: ``model``, ``steps``, ``method``, ``setting`` (a short text beside the
            point; rows of the same setting are learning seeds and averaged), ``macs`` (share of the full run),
            ``psnr_mean``, ``psnr_min``, ``psnr_sem`` (dB).
        against: What is on the horizontal axis; the speed-up is that of the denoiser, ``speed.denoiser_speedup``.
    """
    rows = [{**row, "x": _x(row, against)} for row in rows]
    missing = sorted({key for row in rows for key in KEYS if key not in row})
    if missing or not rows:
        raise StepMaskError(f"rows of a benchmark need {', '.join(KEYS)}; missing: {', '.join(missing) or 'all rows'}")
    models = list(dict.fromkeys(row["model"] for row in rows))
    steps = sorted({row["steps"] for row in rows}, reverse=True)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    styles = {method: STYLES[i % len(STYLES)] for i, method in enumerate(methods)}
    figure = Figure(figsize=(0.3 + 5.2 * len(steps), 0.6 + 3.9 * len(models)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    panels = figure.subplots(len(models), len(steps), squeeze=False)
    for model, line in zip(models, panels, strict=True):
        for count, axes in zip(steps, line, strict=True):
            chosen = [row for row in rows if (row["model"], row["steps"]) == (model, count)]
            _panel(axes, chosen, styles, against)
            axes.set_title(f"{model}, {count} steps", loc="left", fontsize=11, fontweight="bold")
            axes.set_visible(bool(chosen))
    handles = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=len(methods), frameon=False)
    return figure


def _x(row: Mapping[str, Any], against: str) -> float | None:
    return row.get("macs") if against == "macs" else row["speed"]["denoiser_speedup"]


def _panel(axes: Axes, rows: list[Mapping[str, Any]], styles: Mapping[str, tuple[str, str]], against: str) -> None:
    for place, (method, (colour, marker)) in enumerate(styles.items()):
        points = sorted(_means(row for row in rows if row["method"] == method), key=lambda row: row["x"])
        if not points:
            continue
        place_x, psnr = [row["x"] for row in points], [row["psnr_mean"] for row in points]
        errors = [row["psnr_sem"] for row in points]
        axes.errorbar(
            place_x, psnr, errors, color=colour, marker=marker, markersize=6, linewidth=1.5, capsize=2, label=method
        )
        above = place == 0
        for row in points:
            axes.annotate(
                str(row["setting"]),
                (row["x"], row["psnr_mean"]),
                (-6, 5) if above else (6, -4),
                textcoords="offset points",
                ha="right" if above else "left",
                va="bottom" if above else "top",
                fontsize=7.5,
                color=colour,
            )
    axes.margins(x=0.12, y=0.12)
    if against == "macs":
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("MACs of the plan, share of the full run")
    else:
        axes.xaxis.set_major_formatter(FormatStrFormatter("%.1fx"))
        axes.set_xlabel("measured speed-up of the denoiser")
    axes.set_ylabel("PSNR against the full run, dB")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _means(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One point per setting: learning seeds are averaged."""
    by_setting: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_setting.setdefault(str(row["setting"]), []).append(row)
    keys = ("x", "psnr_mean", "psnr_sem")
    return [{**same[0], **{k: sum(row[k] for row in same) / len(same) for k in keys}} for same in by_setting.values()]
