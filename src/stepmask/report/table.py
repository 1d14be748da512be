"""A benchmark as a Markdown table: one line per model, number of steps and method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def markdown_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """PSNR in dB at the kept share of the MACs, most expensive first; learning seeds are averaged, their range given.

    Args:
        rows: ``model``, ``steps``, ``method``, ``setting``, ``macs``, ``psnr_mean``, as in `curve`.
    """
    lines = ["| model, steps | method | PSNR in dB at MACs |", "|---|---|---|"]
    groups: dict[tuple[str, int, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        settings = groups.setdefault((row["model"], row["steps"], row["method"]), {})
        settings.setdefault(str(row["setting"]), []).append(row)
    for (model, steps, method), settings in sorted(groups.items(), key=lambda item: (item[0][0], -item[0][1])):
        points = sorted(settings.values(), key=lambda same: -same[0]["macs"])
        lines.append(f"| {model}, {steps} | {method} | {'; '.join(map(_point, points))} |")
    return "\n".join(lines) + "\n"


def _point(same: list[Mapping[str, Any]]) -> str:
    """One setting: its mean, and the range over learning seeds where there are several."""
    values = [row["psnr_mean"] for row in same]
    macs = sum(row["macs"] for row in same) / len(same)
    spread = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.1f}{spread} at {macs:.3f}"
