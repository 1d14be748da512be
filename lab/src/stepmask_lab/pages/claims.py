"""Where learned masks lead every static rival, and each row where they do not, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stepmask_lab.pages.method_families import OURS, family_of
from stepmask_lab.pages.rows import Row, main_score, speedup_of, value_of
from stepmask_lab.pages.table import DASH, markdown, with_margin
from stepmask_lab.pages.verdicts import MACS_SLACK, SPEED_SLACK, Verdict, by_budget, counts, verdicts

HOW_COMPARED = f"""\
Two rows are compared at equal cost. Cost is the measured speed-up where both rows have one; speed-ups within
{SPEED_SLACK:.0%} count as equal, because timings repeat no better. Otherwise cost is the share of the MACs, and shares
within {MACS_SLACK:.0%} count as equal. Each row of a rival is compared with the next learned mask that costs no more.
Where a rival has no row between a mask and the next more expensive one, its best cheaper row stands for what the budget
buys. Learning seeds are averaged, and nothing is interpolated.

A difference within its 95% interval is a tie. For PSNR that is the interval of the differences image by image, because
the images start from the same noise. Some rows were measured before those differences were kept; there the images count
as independent, which makes the interval too wide rather than too narrow.

A budget *holds* if the learned mask has a higher PSNR than every static rival, and a Fréchet distance that is no worse
where it was measured. A static rival decides before the run what to compute, as a learned mask does: regular schedules,
calibrated rules and other ways to learn.
"""

Part = tuple[str, int, Sequence[Row]]
"""A model, its number of steps, all rows."""


def claims(parts: Sequence[Part]) -> str:
    """The section as Markdown."""
    found = [(f"{model}, {steps} steps", verdicts(rows), main_score(rows)) for model, steps, rows in parts]
    found = [(name, some, score) for name, some, score in found if some]
    heading = "## Where learned masks lead, and where they do not\n"
    if not found:
        return f"{heading}\nNo learned mask was measured beside a rival.\n"
    table = [line for name, some, _ in found for line in _lines(name, some)]
    titles = ["model", "mask", "MACs", "speed-up", "static rivals' rows", "PSNR: leads / ties / trails"]
    titles += ["Fréchet distance: under / ties / over", "holds"]
    shown = [markdown(titles, table), _held(found)] if table else []  # none of the rivals is static
    parts_of_page = [heading, HOW_COMPARED, *shown, _exceptions(found)]
    return "\n".join(part for part in parts_of_page if part)


def _static(found: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    return by_budget(verdict for verdict in found if family_of(verdict.rival["method"]).static)


def _lines(name: str, found: Sequence[Verdict]) -> list[list[str]]:
    """One per learned budget."""
    lines = []
    for setting, some in _static(found).items():
        learned, psnr, score = some[0].learned, counts(some, "psnr"), counts(some, "score")
        speed = speedup_of(learned)
        lines.append([
            name,
            f"{OURS} {setting}",
            f"{learned['macs']:.3f}",
            DASH if speed is None else f"{speed:.2f}",
            str(len(some)),
            " / ".join(map(str, psnr.values())),
            " / ".join(map(str, score.values())) if any(score.values()) else DASH,
            "yes" if all(verdict.holds for verdict in some) else "no",
        ])  # fmt: skip
    return lines


def _held(found: Sequence[tuple[str, list[Verdict], str | None]]) -> str:
    lines = []
    for name, some, score in found:
        budgets = _static(some)
        if not budgets:
            continue
        held = sum(all(verdict.holds for verdict in group) for group in budgets.values())
        missing = "" if score else "; PSNR alone, sets were not scored"
        lines.append(f"- {name}: holds at {held} of {len(budgets)} budgets{missing}.")
    return "\n".join(lines) + "\n"


def _exceptions(found: Sequence[tuple[str, list[Verdict], str | None]]) -> str:
    """Every comparison that the learned masks do not win."""
    lines = [f"- {name}: {_reason(one, score)}" for name, some, score in found for one in some if not one.holds]
    return "### Each row where it does not hold\n\n" + "\n".join(lines) + "\n" if lines else ""


def _reason(verdict: Verdict, name: str | None) -> str:
    rival, learned, family = verdict.rival, verdict.learned, family_of(verdict.rival["method"])
    kind = family.name if family.static else f"{family.name}, not static"
    reasons = []
    if verdict.psnr.outcome != "leads":
        said = "a tie" if verdict.psnr.outcome == "ties" else "behind"
        numbers = f"{learned['psnr_mean']:.1f} against {rival['psnr_mean']:.1f} dB"
        reasons.append(f"PSNR {numbers} ({verdict.psnr.value:+.1f} ± {verdict.psnr.margin:.1f}, {said})")
    if verdict.score is not None and verdict.score.outcome == "trails":
        numbers = f"{value_of(learned, name):.3g} against {value_of(rival, name):.3g}"
        reasons.append(f"{name} {numbers} ({with_margin(verdict.score.value, verdict.score.margin, signed=True)})")
    mask = f"{OURS} {learned['setting']} at {_cost(learned, verdict)}"
    return (
        f"**{rival['method']} {rival['setting']}** ({kind}) at {_cost(rival, verdict)}, {mask}: {'; '.join(reasons)}."
    )


def _cost(row: Row, verdict: Verdict) -> str:
    return f"{speedup_of(row):.2f} times the speed" if verdict.by == "speed-up" else f"{row['macs']:.3f} MACs"
