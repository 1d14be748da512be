"""What a budget buys: methods by models, for those that want to see one table."""

from __future__ import annotations

from collections.abc import Iterable

from stepmask_lab.pages.method_families import FULL, in_order
from stepmask_lab.pages.rows import Row, averaged, speedup_of
from stepmask_lab.pages.table import DASH, markdown

SHARES = (0.5, 0.3)
"""Of the MACs; a table for each."""
SLACK = 0.03
"""By which share of it a row may go beyond the budget: regular schedules hit none."""


def at_a_glance(rows: Iterable[Row], shares: Iterable[float] = SHARES) -> str:
    """One table for each number of steps and budget: of every method what it has for the budget, by model.

    Args:
        rows: Of all models, as `curve` takes them; learning seeds are averaged.
        shares: The budgets, as shares of the full run's MACs.

    Returns:
        Markdown. A cell holds the PSNR in dB, the MACs and, where it was measured, the speed-up of the dearest row that
        costs at most the budget.
    """
    rows = averaged(row for row in rows if row["method"] != FULL)
    return "\n".join(
        _table([row for row in rows if row["steps"] == steps], steps, share)
        for steps in sorted({row["steps"] for row in rows})
        for share in shares
    )


def _table(rows: list[dict], steps: int, share: float) -> str:
    within = [row for row in rows if row["macs"] <= share * (1 + SLACK)]
    models = sorted({row["model"] for row in within})
    body = []
    for method in in_order(row["method"] for row in within):
        cells = [[row for row in within if (row["model"], row["method"]) == (model, method)] for model in models]
        body.append([method, *(_cell(max(same, key=lambda row: row["macs"])) if same else DASH for same in cells)])
    return markdown([f"{steps} steps, {share:.0%} of the MACs", *models], body)


def _cell(row: Row) -> str:
    speedup = speedup_of(row)
    return f"{row['psnr_mean']:.1f} at {row['macs']:.2f}" + (f", {speedup:.2f}x" if speedup else "")
