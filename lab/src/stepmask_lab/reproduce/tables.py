"""Measures Tables 1 to 5: results as JSON values, in which the paper's numbers stand beside ours. Draws nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepmask.errors import StepMaskError
from stepmask_lab.reproduce.bench import Bench, Run, options_of
from stepmask_lab.reproduce.full_size import full_size
from stepmask_lab.reproduce.paper import MASKING, SOURCE, TABLE4, TABLE5, TABLES, PaperModel
from stepmask_lab.reproduce.rectification import EXACT, NOTHING, rectification
from stepmask_lab.reproduce.table_lines import ablation_lines, comparison_lines

WITHOUT_RECTIFICATION = "without rectification"


def comparison_table(table: str, bench: Bench | None, router: str | Path | None = None) -> dict[str, Any]:
    """One of Tables 1 to 3.

    Args:
        table: ``"table1"``, ``"table2"`` or ``"table3"``.
        bench: Where to measure; None gives the paper's numbers and MACs at full size alone, which takes seconds.
        router: Of Learning-to-Cache, for its MACs at full size.
    """
    models = [_model(model, None if bench is None else bench.run_of(model), router) for model in TABLES[table]]
    return _result(table, bench, models=models)


def ablation_table(table: str, bench: Bench | None) -> dict[str, Any]:
    """Table 4 or 5, the latter with Eq. 12 against exact elimination.

    Args:
        table: ``"table4"`` or ``"table5"``.
        bench: Where to measure; None gives the paper's numbers alone.
    """
    printed = {line.name: asdict(line) for line in (TABLE4 if table == "table4" else TABLE5)}
    if bench is None:
        return _result(
            table, bench, lines=[{"line": name, "paper": one, "ours": None} for name, one in printed.items()]
        )
    run = ablated(bench)
    methods = ablation_lines(table, bench.options)
    rows = {row["method"]: row for row in run.rows(list(methods.values()))}
    ours = {line: rows.get(method.name) for line, method in methods.items()}
    more = {}
    if table == "table5":
        found = rectification(run, speed=bench.options.speed)
        ours[WITHOUT_RECTIFICATION] = _unrectified(rows.get(MASKING), found[0]["plans"])
        others = [other for models in TABLES.values() for model in models if (other := bench.run_of(model))]
        found += [row for other in others if other.name != run.name for row in rectification(other)]
        more = {"rectification": found}
    order = [*printed, *(line for line in ours if line not in printed)]
    lines = [{"line": line, "paper": printed.get(line), "ours": ours.get(line)} for line in order]
    return _result(table, bench, model=run.name, steps=run.subject.steps, share=run.model.share, lines=lines,
                   circumstances=run.circumstances(), **more)  # fmt: skip


def ablated(bench: Bench) -> Run:
    """The model of Tables 4 and 5 and of the figures, a DDPM for CIFAR-10.

    Raises:
        StepMaskError: The user's own model is none.
    """
    run = bench.run_of(TABLES["table1"][0])
    if run is None:
        raise StepMaskError(
            f"Tables 4 and 5 and the figures are of a DDPM for CIFAR-10, {bench.own.name} is none: give "
            "google/ddpm-cifar10-32, or leave --model out"
        )
    return run


def _model(model: PaperModel, run: Run | None, router: str | Path | None) -> dict[str, Any]:
    """The paper's lines, MACs at full size, and ours, of one model."""
    values = asdict(model)
    values |= {"paper": values.pop("rows"), "share": model.share, "full_size": full_size(model, router)}
    if run is None:
        return {**values, "measured": None, "rows": []}
    rows = run.rows(comparison_lines(run))
    return {**values, "measured": run.name, "measured_steps": run.subject.steps, "rows": rows,
            "circumstances": run.circumstances()}  # fmt: skip


def _unrectified(row: dict[str, Any] | None, plans: dict[str, Any]) -> dict[str, Any] | None:
    """The unchanged mask with nothing left out: its images are those of the exact plan."""
    if row is None:
        return None
    same = plans[NOTHING]["psnr_to_mask"] == plans[EXACT]["psnr_to_mask"]
    speed = {"denoiser_speedup": plans[NOTHING]["speedup"]} if plans[NOTHING]["speedup"] else None
    kept = {name: row.get(name) for name in ("psnr_mean", "psnr_sem", "psnr_min", "ssim_mean", "scores", "decided")}
    found = kept if same else {"psnr_mean": plans[NOTHING]["psnr"]}
    return {**found, "macs": plans[NOTHING]["macs"], "conv_linear": plans[NOTHING]["conv_linear"], "speed": speed}


def _result(table: str, bench: Bench | None, **values: Any) -> dict[str, Any]:
    return {"table": table, "source": SOURCE, "options": None if bench is None else options_of(bench), **values}
