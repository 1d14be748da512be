"""Benchmarks as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from stepmask.mask import DENOISER_CALLS, SECONDS
from stepmask_lab.pages.rows import REACH, Row, change_of, error_of, main_score, score_names, value_of, work_of

DASH = "–"
IMAGES_AT_ONCE = 16
"""Of rows that do not say it."""
SAME_PSNR = 100.0
"""dB. What evaluation gives images that are equal in every pixel."""


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


def rows_table(rows: Iterable[Row]) -> str:
    """Every row of one model and number of steps with what was measured of it, intervals of 95% where they are known.

    Rows are in the order that they have; learning seeds have a row each. Beside the MACs of what decides for each image
    stand the least and the greatest share of steps. Budgets of one family share the calls and minutes of its learning.
    """
    rows = list(rows)
    names, main = score_names(rows), main_score(rows)
    changes = main is not None and any(change_of(row, main) for row in rows)
    known = {title: tell for title, tell in KNOWN_OF_SOME.items() if any(tell(row) != DASH for row in rows)}
    if len({row.get("num_images") for row in rows}) > 1:
        known["images"] = lambda row: str(row.get("num_images", DASH))
    titles = ["method", "setting", "MACs", "1 / MACs", "speed-up", "of 1 / MACs", "PSNR", "worst", "SSIM"]
    titles += [*names[:1], *(["less full run"] if changes else []), *names[1:], *known]
    body = []
    for row in rows:
        speed, ssim = row.get("speed"), row["ssim_mean"]
        scores = [_score(row, name) for name in names]
        if changes:
            scores.insert(1, _change(row, main))
        body.append([
            row["method"] + ("" if row.get("seed") is None else f", seed {row['seed']}"),
            str(row["setting"]),
            f"{row['macs']:.3f}{work_of(row)}",
            f"{1 / row['macs']:.2f}",
            f"{speed['denoiser_speedup']:.2f}" if speed else DASH,
            f"{speed['share_of_bound']:.2f}" if speed else DASH,
            "the same" if row["psnr_min"] >= SAME_PSNR else f"{row['psnr_mean']:.1f} ± {REACH * row['psnr_sem']:.1f}",
            DASH if row["psnr_min"] >= SAME_PSNR else f"{row['psnr_min']:.1f}",
            DASH if ssim is None else f"{ssim:.4f}",
            *scores,
            *(tell(row) for tell in known.values()),
        ])  # fmt: skip
    return markdown(titles, body)


def _cache(row: Row) -> str:
    found = row.get("peak_cache_bytes")
    return f"{found / row.get('images_at_once', IMAGES_AT_ONCE) / 2**20:.2f}" if found else DASH


def _speed_of_one(row: Row) -> str:
    return f"{row['speed_at_1']['denoiser_speedup']:.2f}" if row.get("speed_at_1") else DASH


def _effort(name: str, form: Callable[[float], str], row: Row) -> str:
    return form(row["effort"][name]) if name in row.get("effort", {}) else DASH


KNOWN_OF_SOME: dict[str, Callable[[Row], str]] = {
    "speed-up of one image": _speed_of_one,
    "cache, MiB an image": _cache,
    "calls to learn": partial(_effort, DENOISER_CALLS, "{:,}".format),
    "minutes": partial(_effort, SECONDS, lambda seconds: f"{seconds / 60:.0f}"),
}
"""Columns that a table has where a row has something to tell in them."""


def markdown(titles: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table of texts."""
    lines = [titles, ["---"] * len(titles), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_margin(value: float, margin: float | None, signed: bool = False) -> str:
    """A value and half of its 95% interval, to two digits of the latter; the value alone where that is not known."""
    sign = "+" if signed else ""
    if not margin or not math.isfinite(margin):
        return f"{value:{sign}.3g}"
    decimals = max(0, 1 - math.floor(math.log10(margin)))
    return f"{value:{sign}.{decimals}f} ± {margin:.{decimals}f}"


def _score(row: Row, name: str) -> str:
    value, error = value_of(row, name), error_of(row, name)
    return DASH if value is None else with_margin(value, error and REACH * error)


def _change(row: Row, name: str) -> str:
    found = change_of(row, name)
    return DASH if found is None else with_margin(found[0], found[1] and REACH * found[1], signed=True)


def transfer_table(results: Iterable[Mapping[str, Any]]) -> str:
    """What masks are worth outside of what they were learned for: one line per model and setting.

    Args:
        results: What ``transfer-MODEL.json`` holds.
    """
    titles = ["model", "setting", "MACs", "learned there, calls", "taken over", "refined, calls"]
    titles.append("FORA 1:2 with forecasts, its MACs")
    body = []
    for result in results:
        for row in result["rows"]:
            body.append([
                result["model"],
                row["setting"],
                f"{row['macs']:.3f}",
                _learned(row, "here"),
                f"{row['psnr_taken_over']:.1f}",
                _learned(row, "refined"),
                f"{row['psnr_schedule']:.1f} at {row['macs_schedule']:.3f}",
            ])  # fmt: skip
    return markdown(titles, body)


def _learned(row: Mapping[str, Any], label: str) -> str:
    """PSNR and denoiser calls; older results lack calls, and what was not refined then."""
    psnr, calls = row.get(f"psnr_{label}"), row.get(f"calls_{label}")
    return DASH if psnr is None else f"{psnr:.1f}" + ("" if calls is None else f", {calls:,}")
