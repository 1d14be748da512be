"""Learned masks and rivals at equal cost: who leads, by how much, and how sure that is.

Cost is the measured speed-up where both have one, MACs otherwise. Each row of a rival is held against the next cheaper
learned mask; where a method has no row between one mask and the next dearer one, its best cheaper row is. Nothing is
interpolated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import hypot
from typing import Any, Literal

from stepmask_lab.pages.method_families import FULL, OURS, family_of
from stepmask_lab.pages.rows import (
    REACH,
    Row,
    averaged,
    change_of,
    error_of,
    main_score,
    paired_error,
    speedup_of,
    value_of,
)

MACS_SLACK, SPEED_SLACK = 0.01, 0.03
"""By which shares costs may differ and count as equal: targets are met to a percent, timings repeat to three."""

Outcome = Literal["leads", "ties", "trails"]


@dataclass(frozen=True)
class Difference:
    """A learned mask's quality less a rival's.

    Attributes:
        value: In dB, or in the units of the score.
        margin: Half of the 95% interval of the difference; None where the errors are not known.
        higher_is_better: Of the quality.
    """

    value: float
    margin: float | None
    higher_is_better: bool

    @property
    def outcome(self) -> Outcome:
        """A tie where the difference lies within the margin."""
        if abs(self.value) <= (self.margin or 0):
            return "ties"
        return "leads" if (self.value > 0) == self.higher_is_better else "trails"


@dataclass(frozen=True)
class Verdict:
    """A learned mask and a rival's row.

    Attributes:
        rival: The row.
        learned: The row of the mask.
        by: What cost was compared by.
        psnr: In dB.
        score: Of the main score; None where it was not measured.
    """

    rival: Row
    learned: Row
    by: Literal["speed-up", "MACs"]
    psnr: Difference
    score: Difference | None

    @property
    def holds(self) -> bool:
        """Whether the learned mask leads in PSNR and is at or under the rival's Fréchet distance, or ties there."""
        return self.psnr.outcome == "leads" and (self.score is None or self.score.outcome != "trails")


def verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """All comparisons of one model at one number of steps, dearest mask first; learning seeds are averaged.

    Args:
        rows: As `curve` takes them. Rows of our own other learned masks (hold only) are no rivals.
    """
    rows = averaged(rows)
    learned = sorted((row for row in rows if row["method"] == OURS), key=lambda row: -row["macs"])
    rivals: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if family_of(row["method"]).name not in (OURS, FULL):
            rivals.setdefault(row["method"], []).append(row)
    name = main_score(rows)
    return [
        _verdict(rival, mask, name)
        for place, mask in enumerate(learned)
        for same in rivals.values()
        for rival in _facing(mask, learned[:place], same)
    ]


def by_budget(found: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """Verdicts by the setting of the learned mask."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in found:
        groups.setdefault(str(verdict.learned["setting"]), []).append(verdict)
    return groups


def counts(found: Iterable[Verdict], what: Literal["psnr", "score"]) -> dict[Outcome, int]:
    """How often a learned mask leads, ties and trails."""
    result: dict[Outcome, int] = {"leads": 0, "ties": 0, "trails": 0}
    for verdict in found:
        difference = getattr(verdict, what)
        if difference is not None:
            result[difference.outcome] += 1
    return result


def _facing(mask: Row, dearer: list[dict[str, Any]], same: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one method that a mask is held against: those that cost as much, or the best of those that cost less."""
    as_much = [row for row in same if _affords(row, mask) and not any(_affords(row, other) for other in dearer)]
    less = [row for row in same if not _affords(row, mask)]
    return as_much or ([max(less, key=lambda row: row["psnr_mean"])] if less else [])


def _affords(row: Row, mask: Row) -> bool:
    """Whether what a row costs pays for a mask."""
    if _timed(row, mask):
        return speedup_of(mask) >= speedup_of(row) * (1 - SPEED_SLACK)
    return mask["macs"] <= row["macs"] * (1 + MACS_SLACK)


def _timed(row: Row, mask: Row) -> bool:
    return speedup_of(row) is not None and speedup_of(mask) is not None


def _verdict(rival: Row, mask: Row, name: str | None) -> Verdict:
    paired = paired_error(mask, rival)
    margin = REACH * (hypot(mask["psnr_sem"], rival["psnr_sem"]) if paired is None else paired)
    psnr = Difference(mask["psnr_mean"] - rival["psnr_mean"], margin, True)
    by = "speed-up" if _timed(rival, mask) else "MACs"
    return Verdict(rival, mask, by, psnr, _score_difference(mask, rival, name))


def _score_difference(one: Row, other: Row, name: str | None) -> Difference | None:
    """By changes against the full run where they are known, which are surer than the scores: all share its noise.

    Older results have no errors: those of the other row then count twice.
    """
    if name is None or value_of(one, name) is None or value_of(other, name) is None:
        return None
    changes = [change_of(row, name) for row in (one, other)]
    errors = [error_of(row, name) for row in (one, other)] if None in changes else [change[1] for change in changes]
    known = [error for error in errors if error is not None]
    margin = REACH * hypot(known[0], known[-1]) if known else None
    return Difference(value_of(one, name) - value_of(other, name), margin, False)
