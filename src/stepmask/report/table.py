"""Benchmarks as Markdown tables."""

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


def comparison_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Every row of a benchmark with what was measured of it: worst image, SSIM, speed-up, scores."""
    rows = sorted(rows, key=lambda row: (row["model"], -row["steps"]))
    names = list(dict.fromkeys(name for row in rows for name in row.get("scores") or ()))
    titles = [
        "model",
        "steps",
        "method",
        "setting",
        "MACs",
        "1 / MACs",
        "speed-up",
        "of 1 / MACs",
        "PSNR",
        "worst",
        "SSIM",
    ]
    lines = [f"| {' | '.join([*titles, *names])} |", "|---" * (len(titles) + len(names)) + "|"]
    for row in rows:
        speed, scores = row.get("speed"), row.get("scores") or {}
        seed = "" if row.get("seed") is None else f", seed {row['seed']}"
        cells = [
            row["model"],
            str(row["steps"]),
            row["method"] + seed,
            str(row["setting"]),
            f"{row['macs']:.3f}",
            f"{1 / row['macs']:.2f}",
            f"{speed['denoiser_speedup']:.2f}" if speed else "–",
            f"{speed['share_of_bound']:.2f}" if speed else "–",
            f"{row['psnr_mean']:.1f} ± {row['psnr_sem']:.1f}",
            f"{row['psnr_min']:.1f}",
            "–" if row["ssim_mean"] is None else f"{row['ssim_mean']:.4f}",
            *(f"{scores[name]:.4g}" if name in scores else "–" for name in names),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def transfer_table(results: Iterable[Mapping[str, Any]]) -> str:
    """What masks are worth outside of what they were learned for: one line per model and setting.

    Args:
        results: What ``transfer-MODEL.json`` holds.
    """
    lines = [
        "| model | setting | MACs | learned there, its MACs | taken over | costs | FORA 1:2 with forecasts, its MACs |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["rows"]:
            lost = row["psnr_here"] - row["psnr_taken_over"]
            cells = (
                result["model"],
                row["setting"],
                f"{row['macs']:.3f}",
                f"{row['psnr_here']:.1f} at {row['macs_here']:.3f}",
                f"{row['psnr_taken_over']:.1f}",
                f"{lost:.1f}",
                f"{row['psnr_schedule']:.1f} at {row['macs_schedule']:.3f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
