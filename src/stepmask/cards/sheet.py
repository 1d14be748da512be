"""What there is to say of a mask, a family, a recipe or a frontier, in texts; files may say anything of themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stepmask.family import MaskFamily
from stepmask.frontier import UNITS, Frontier, Point
from stepmask.mask import StepMask
from stepmask.recipe import Recipe
from stepmask.report.content import is_number
from stepmask.words import size

Facts = list[tuple[str, str]]
Decision = StepMask | MaskFamily | Recipe | Frontier

LONGEST = 200
"""So many letters of what a file says of itself are passed on."""


@dataclass(frozen=True)
class Sheet:
    """A mask, family, recipe or frontier in words.

    Attributes:
        kind: What it is, in a word or two.
        summary: A sentence on it.
        shown: The mask or recipe that pictures show: of several one in the middle, or the one that was evaluated.
        at: What picks it from a family or a frontier, else None.
        facts: Names and values.
        members: Of a family or a frontier a table, whose first row has the headings.
        origin: What is known of the pipeline that it is for, as `origin_of` gives it.
    """

    kind: str
    summary: str
    shown: StepMask | Recipe
    at: float | None
    facts: Facts
    members: tuple[tuple[str, ...], ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mask(self) -> StepMask | None:
        """The mask of what is shown; recipes may have none."""
        return self.shown if isinstance(self.shown, StepMask) else self.shown.mask

    @property
    def record(self) -> Mapping[str, Any]:
        """What is known of how the shown one came to be, and of the pipeline that it is for."""
        return {**(self.mask.provenance if self.mask is not None else {}), **self.shown.provenance, **self.origin}


def sheet_of(decision: Decision, evaluation: Mapping[str, Any] | None = None) -> Sheet:
    """The sheet of what lies in a file.

    Args:
        decision: What it is of.
        evaluation: The numbers of an evaluation of it, as `Evaluation.to_dict` gives them; under ``origin`` what is
            known of the pipeline, as `origin_of` gives it.
    """
    evaluation = evaluation or {}
    origin = evaluation.get("origin")
    sheet = _sheet(decision, evaluation)
    return replace(sheet, origin=origin) if isinstance(origin, Mapping) else sheet


def _sheet(decision: Decision, evaluation: Mapping[str, Any]) -> Sheet:
    if isinstance(decision, MaskFamily):
        return _family_sheet(decision, evaluation)
    if isinstance(decision, Frontier):
        return _frontier_sheet(decision, evaluation)
    if isinstance(decision, Recipe):
        return Sheet("recipe", f"A recipe: {decision}.", decision, None, _facts(decision, evaluation))
    share = number(evaluation, "macs_fraction") or number(decision.provenance, "macs")
    at = "" if share is None else f", at {share:.1%} of the multiply-accumulates (MACs)"
    return Sheet("mask", f"For {said(decision.made_for)}{at}.", decision, None, _facts(decision, evaluation))


def _family_sheet(family: MaskFamily, evaluation: Mapping[str, Any]) -> Sheet:
    share = number(evaluation, "macs_fraction")
    members = list(family)
    shown = members[len(members) // 2] if share is None else min(members, key=lambda m: abs(m.macs - share))
    rows = [("share of the MACs", "PSNR, held-back images", "cache per image")]
    for member in members:
        cache = number(member.mask.provenance, "cache_bytes_per_image")
        rows.append((f"{member.macs:.1%}", f"{member.psnr:.1f} dB", "-" if cache is None else size(cache)))
    costs = f"{members[-1].macs:.1%} to {members[0].macs:.1%} of the multiply-accumulates (MACs)"
    words = f"{len(family)} masks for {said(shown.mask.made_for)}, at {costs}"
    at = math.ceil(1000 * shown.macs) / 1000
    return Sheet("family of masks", f"{words}.", shown.mask, at, _facts(shown.mask, evaluation), tuple(rows))


def _frontier_sheet(frontier: Frontier, evaluation: Mapping[str, Any]) -> Sheet:
    best: list[Point] = []
    for point in sorted(frontier.points, key=lambda point: (point.work, -point.psnr)):
        if not best or point.psnr > best[-1].psnr:
            best.append(point)
    budgets = frontier.budgets
    rows = [(UNITS[frontier.unit], "way", "PSNR to the converged run")]
    rows += [(f"{point.work:.3g}", point.way, f"{point.psnr:.1f} dB") for point in best]
    shown = best[len(best) // 2]
    words = f"A frontier of {len(frontier.points)} recipes, for {budgets[0]:g} to {budgets[-1]:g} {frontier.unit}"
    at = math.ceil(1000 * shown.work) / 1000
    return Sheet("frontier", f"{words}.", shown.recipe, at, _facts(shown.recipe, evaluation), tuple(rows))


def _facts(shown: StepMask | Recipe, evaluation: Mapping[str, Any]) -> Facts:
    """What is known of a mask or recipe, those of the evaluation last."""
    mask = shown if isinstance(shown, StepMask) else shown.mask
    record = {**(mask.provenance if mask is not None else {}), **shown.provenance}
    facts: Facts = [("steps", f"{shown.num_inference_steps!s:.20}")]
    facts.append(("scheduler", said((shown.scheduler or {}).get("class", "any"))))
    if mask is not None:
        model = record.get("model")
        facts += [("denoiser", said(model))] if model else []
        forecast = "" if mask.is_binary else f", {mask.forecast.mean():.0%} forecast"
        cells = f"{mask.num_rows} rows x {len(mask.sites)} sites"
        facts.append(("cells", f"{cells}, {mask.compute.mean():.0%} compute{forecast}"))
    facts += _learned(record)
    return facts + _evaluated(evaluation)


def _learned(record: Mapping[str, Any]) -> Facts:
    """What learning has measured, on images that it held back."""
    facts: Facts = []
    share, psnr, cache = number(record, "macs"), number(record, "psnr", "mean"), number(record, "cache_bytes_per_image")
    if share is not None:
        facts.append(("MACs", f"{share:.1%} of the full run"))
    if psnr is not None:
        known, images = record["psnr"].get("confidence_95"), number(record, "psnr", "held_back_images")
        pair = isinstance(known, list | tuple) and len(known) == 2 and all(map(is_number, known))
        interval = f", 95% interval {known[0]:.1f} to {known[1]:.1f}" if pair else ""
        on = "" if images is None else f", on {images:g} held-back images"
        facts.append(("PSNR to the full run", f"{psnr:.1f} dB{interval}{on}"))
    if cache is not None:
        facts.append(("cache per image", size(cache)))
    guidance = number(record, "guidance_scale")
    if guidance is not None:
        facts.append(("guidance scale", f"{guidance:g}"))
    if record.get("method"):
        facts.append(("made by", said(record["method"])))
    return facts


def _evaluated(evaluation: Mapping[str, Any]) -> Facts:
    """What an evaluation has measured, on seeds of its own."""
    facts: Facts = []
    share, psnr = number(evaluation, "macs_fraction"), number(evaluation, "psnr", "mean")
    if share is not None:
        facts.append(("evaluated: MACs", f"{share:.1%} of the full run"))
    if psnr is not None:
        seeds = evaluation.get("seeds")
        on = f", {len(seeds)} images" if isinstance(seeds, list) else ""
        error = number(evaluation, "psnr", "standard_error")
        spread = "" if error is None else f" ± {1.96 * error:.1f}"
        against = said(evaluation.get("against", "the full run"))
        facts.append((f"evaluated: PSNR to {against}", f"{psnr:.1f}{spread} dB{on}"))
    ssim = number(evaluation, "ssim", "mean")
    if ssim is not None:
        facts.append(("evaluated: SSIM", f"{ssim:.4f}"))
    speed, batch = number(evaluation, "speed", "denoiser", "median"), number(evaluation, "speed", "batch_size")
    if speed is not None:
        where = ", ".join(said(evaluation[key]) for key in ("device", "dtype") if evaluation.get(key))
        facts.append(("evaluated: speed-up of the denoiser", f"{speed:.2f}x at batch {batch or 0:g} ({where})"))
    return facts


def said(value: Any) -> str:
    """What a file says of itself, as a text that is not long and that any file can hold."""
    return str(value)[:LONGEST].encode("utf-8", "replace").decode()


def number(record: Any, *keys: str) -> float | None:
    """A number within an object that may be anything; None where there is none."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record if is_number(record) else None
