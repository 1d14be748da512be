"""Metrics that the user names, and the table of what they found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepmask import plugins
from stepmask.errors import StepMaskError

if TYPE_CHECKING:
    from rich.table import Table


def metrics_for(names: str | None, real: Path | None) -> plugins.Metrics | None:
    """The metrics of ``--metrics`` and ``--real``; None where they were not given.

    Raises:
        StepMaskError: There is no metric of a name, or its packages or weights are missing.
    """
    if names:
        return plugins.load_metrics(names, real)
    if real is not None:
        raise StepMaskError("--real is the reference set of fid and its kin: ask for them with --metrics fid,kid")
    return None


def scores_table(scores: Mapping[str, Any]) -> Table:
    """Value, interval, and change against the full run."""
    from rich.table import Table

    table = Table("score", title="scores of the masked run's images", title_justify="left")
    for column in ("value", "95% interval", "less the full run's", "95% interval"):
        table.add_column(column, justify="right")
    for name, score in scores.items():
        table.add_row(name, *_numbers(score), *(_numbers(score.change) if score.change else ("-", "-")))
    counts = sorted({score.num_images for score in scores.values()})
    table.caption = f"of {' and '.join(map(str, counts))} images"
    table.caption_justify = "left"
    return table


def _numbers(found: Any) -> tuple[str, str]:
    interval = "-" if found.low is None else f"{found.low:.4g} to {found.high:.4g}"
    return f"{found.value:.4g}", interval
