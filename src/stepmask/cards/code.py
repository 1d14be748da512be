"""The few lines that use what is shared, as they stand."""

from __future__ import annotations

import json

from stepmask.cards.sheet import Sheet, number

CONDITIONS = {"prompt": '"a lighthouse at dusk"', "class_labels": "[7]"}
"""What pipelines are called with, by the name of the argument."""
UNKNOWN = "..."
"""Stands for a model that is not known."""


def code_for(sheet: Sheet, source: str, base_model: str | None) -> str:
    """Python that loads the base model, and samples under what lies at `source`."""
    class_name, call = _call(sheet)
    quoted, name = json.dumps(source), sheet.shown.kind
    value = f"stepmask.load({quoted})" if sheet.at is None else f"stepmask.load({quoted}, at={sheet.at:g})"
    lines = [
        "import diffusers",
        "import stepmask",
        "",
        f"pipe = diffusers.{class_name}.from_pretrained({json.dumps(base_model or UNKNOWN)})",
        f"{name} = {value}",
        *([f"pipe.scheduler = stepmask.scheduler_of({name})"] if sheet.shown.scheduler is not None else []),
        f"with stepmask.apply(pipe, {name}):",
        f"    samples = pipe({', '.join(call)})[0]",
    ]
    return "\n".join(lines)


def _call(sheet: Sheet) -> tuple[str, list[str]]:
    """The class of the pipeline, and the arguments of its call."""
    name, guidance = sheet.record.get("pipeline"), number(sheet.record, "guidance_scale")
    call = [f"num_inference_steps={sheet.shown.num_inference_steps}"]
    if guidance is not None:
        call.append(f"guidance_scale={guidance:g}")
    condition = CONDITIONS.get(sheet.record.get("condition", ""))
    known = isinstance(name, str) and name.isidentifier()
    return name if known else "DiffusionPipeline", [condition, *call] if condition else call
