"""Reads the rows of a benchmark: scores with or without intervals, learning seeds averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import sqrt
from statistics import NormalDist, mean, stdev
from typing import Any

Row = Mapping[str, Any]

REACH = NormalDist().inv_cdf(0.975)
"""Standard errors on either side of a value that make an interval of 95%."""

MAIN_SCORES = ("fid", "fd_")
"""How the names begin of the score that images as sets are judged by."""


def score_names(rows: Iterable[Row]) -> list[str]:
    """All scores of some rows, the main one first."""
    names = dict.fromkeys(name for row in rows for name in row.get("scores") or ())
    return sorted(names, key=lambda name: not name.startswith(MAIN_SCORES))


def main_score(rows: Iterable[Row]) -> str | None:
    """The Fréchet distance among the scores of some rows."""
    return next((name for name in score_names(rows) if name.startswith(MAIN_SCORES)), None)


def value_of(row: Row, name: str) -> float | None:
    """A score; None where the row has none. Older results hold plain numbers."""
    found = (row.get("scores") or {}).get(name)
    return found["value"] if isinstance(found, Mapping) else found


def error_of(row: Row, name: str) -> float | None:
    """Standard error of a score; None where it is not known."""
    found = (row.get("scores") or {}).get(name)
    return found.get("standard_error") if isinstance(found, Mapping) else None


def change_of(row: Row, name: str) -> tuple[float, float | None] | None:
    """A score less the full run's, and its standard error over the same draws; None where it was not measured."""
    found = (row.get("scores") or {}).get(name)
    change = found.get("change") if isinstance(found, Mapping) else None
    return None if change is None else (change["value"], change.get("standard_error"))


def work_of(row: Row) -> str:
    """How the work of images differs around the mean that MACs are, in words; empty where it does not."""
    work = row.get("work")
    return f" ({work['min']:.2f}–{work['max']:.2f})" if work and work["min"] < work["max"] else ""


def speedup_of(row: Row) -> float | None:
    """Measured speed-up of the denoiser; None where it was not measured."""
    return row["speed"]["denoiser_speedup"] if row.get("speed") else None


def paired_error(one: Row, other: Row) -> float | None:
    """Standard error of the mean difference in PSNR over the images of two averaged rows, which have the same noise.

    None where it is not known image by image; older results have the means alone.
    """
    pair = one.get("psnrs"), other.get("psnrs")
    if None in pair or len(pair[0]) != len(pair[1]) or len(pair[0]) < 2:
        return None
    return stdev(a - b for a, b in zip(*pair, strict=True)) / sqrt(len(pair[0]))


def averaged(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row per model, steps, method and setting: learning seeds are averaged.

    Their standard errors are averaged too: seeds share the images' noise, so they do not make the mean surer.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["steps"], row["method"], str(row["setting"])), []).append(row)
    return [_average(same) for same in groups.values()]


def _average(same: list[Row]) -> dict[str, Any]:
    result = {**same[0], "num_seeds": len(same), "psnr_min": min(row["psnr_min"] for row in same)}
    for name in ("macs", "psnr_mean", "psnr_sem"):
        result[name] = mean(row[name] for row in same)
    for batch in ("speed", "speed_at_1"):
        speeds = [row[batch] for row in same if row.get(batch)]
        if speeds:
            numbers = {name: mean(speed[name] for speed in speeds) for name in ("denoiser_speedup", "share_of_bound")}
            result[batch] = {**speeds[0], **numbers}
    result["scores"] = {name: _average_score(same, name) for name in score_names(same)}
    result["psnrs"] = _by_image(same)
    return result


def _by_image(same: list[Row]) -> list[float] | None:
    """PSNR of each image, averaged over learning seeds; None where a row has none, or of another number of images."""
    found = [row.get("psnrs") or [] for row in same]
    if not found[0] or any(len(values) != len(found[0]) for values in found):
        return None
    return [mean(values) for values in zip(*found, strict=True)]


def _average_score(same: list[Row], name: str) -> dict[str, Any]:
    have = [row for row in same if value_of(row, name) is not None]
    errors = [error_of(row, name) for row in have]
    score: dict[str, Any] = {"value": mean(value_of(row, name) for row in have), "standard_error": _mean(errors)}
    changes = [change_of(row, name) for row in have]
    if None not in changes:
        score["change"] = {
            "value": mean(change[0] for change in changes),
            "standard_error": _mean([change[1] for change in changes]),
        }
    return score


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else mean(values)
