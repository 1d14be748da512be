"""The page of results: tables, trade-offs, the same seeds under each method, and where learned masks lead or do not.

Everything on it is computed from the rows that it is given; nothing is sampled or measured here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from stepmask.files import write_atomically
from stepmask.pictures.files import save_png
from stepmask.pictures.image_sheets import same_seeds
from stepmask_lab.pages.at_a_glance import at_a_glance
from stepmask_lab.pages.claims import claims
from stepmask_lab.pages.curve import trade_offs
from stepmask_lab.pages.method_families import FULL, OURS, family_of, in_order
from stepmask_lab.pages.rows import Row, main_score, value_of
from stepmask_lab.pages.table import markdown, rows_table

IMAGES = "images"
"""Folder of the pictures, beside the page."""
SHOWN_RIVALS = 6
SHOWN_SHARE = 0.4
"""The learned mask nearest to this share of the MACs is shown beside its rivals: at more, few look different."""
SHOWN_SLACK = 0.05
"""A rival shown beside it may cost so much more, so that none is shown at much less for want of a row."""

GLANCE = """\
Each cell shows the PSNR in dB, the share of the MACs, and the measured speed-up of the denoiser where there is one. A
method is shown by its most expensive row that costs at most the budget, with a tolerance of 3%.
"""

HOW_TO_READ = """\
- **PSNR** in dB compares with the full run from the same noise, on seeds that learning has not seen. The number after ±
  is half of the 95% interval of the mean over images. *Worst* is the worst image.
- **MACs** are those that run, as a share of the full run. They include attention products and guidance, and leave the
  decoder out.
- **Speed-up** is that of the denoiser. Full and fast runs are made in turns, and the median of the pairs is shown. *Of
  1 / MACs* is its share of what the MACs promise. The full run against itself shows how steady the clock was.
- **fd**, **sfd** and **kid** (lower is better), **is** and **recall** (higher is better) score the images as a set
  against real ones. The end of the name says on which features; only scores on Inception are called FID. The scores
  depend on the number of images, so read them against the row *full run*. The number after ± is half of the 95%
  interval over bootstrap draws of the images.
- *Less full run* is the difference to the full run over the same draws of the same seeds, and is therefore more certain
  than either score. Figures show its interval where it is known.
- *Fewer steps* is the plain pipeline with that many steps, compared with the full run of all steps.
"""


@dataclass(frozen=True)
class Results:
    """What was measured of one model.

    Attributes:
        model: Its name.
        rows: Of all methods and numbers of steps.
        circumstances: Of the rows, by number of steps.
        speed: Further measured speed-ups, with ``mask`` for a method and its setting.
        strip: The file with a row's first images side by side; None where there is none.
    """

    model: str
    rows: Sequence[Row]
    circumstances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    speed: Sequence[Mapping[str, Any]] = ()
    strip: Callable[[Row], Path | None] = lambda row: None

    def parts(self) -> list[tuple[int, list[Row]]]:
        """Rows by number of steps, most first."""
        steps = sorted({row["steps"] for row in self.rows}, reverse=True)
        return [(count, [row for row in self.rows if row["steps"] == count]) for count in steps]


def write_page(results: Iterable[Results], folder: Path, source: str) -> list[Path]:
    """Write ``results.md`` and its pictures.

    Args:
        results: One per model.
        folder: Of the page; pictures go to ``images`` in it. A grid of images that is there already stays where the
            rows have no strips.
        source: The command, or what else the page was made by.

    Returns:
        The files, the page first.
    """
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    results = sorted(results, key=lambda one: one.model)
    parts = [(one, steps, rows) for one in results for steps, rows in one.parts()]
    sections = [_section(one, steps, rows, folder, made) for one, steps, rows in parts]
    text = "\n".join(
        [
            f"# Results, every row\n\n`{source}` writes this page from the raw results. Do not edit it by hand.\n",
            HOW_TO_READ,
            _circumstances(parts),
            "## At a glance\n",
            GLANCE,
            at_a_glance(row for one in results for row in one.rows),
            claims([(one.model, steps, rows) for one, steps, rows in parts]),
            *sections,
            _shares(results),
        ]
    )
    page = folder / "results.md"
    write_atomically(page, text.rstrip() + "\n")
    return [page, *made]


def _section(one: Results, steps: int, rows: Sequence[Row], folder: Path, made: list[Path]) -> str:
    """Trade-offs, images and all rows of one model at one number of steps."""
    name = f"{one.model}-{steps}"
    lines = [f"## {one.model}, {steps} steps\n"]
    if any(row["method"] != FULL for row in rows):
        made.append(save_png(trade_offs(rows), folder / IMAGES / f"trade_off-{name}.png"))
        lines.append(f"![Quality against cost]({IMAGES}/{made[-1].name})\n")
    picture = folder / IMAGES / f"seeds-{name}.png"
    strips = _strips(one, rows)
    if len(strips) > 1:
        made.append(save_png(same_seeds(strips), picture))
    if picture.exists():
        lines.append(f"![The same seeds under each method]({IMAGES}/{picture.name})\n")
    return "\n".join([*lines, rows_table(rows)])


def _strips(one: Results, rows: Sequence[Row]) -> list[tuple[str, str, Image.Image]]:
    """Full run, learned, and the best rivals of about its MACs: one of each family first, best first."""
    shown = [row for row in rows if (found := one.strip(row)) is not None and found.exists()]
    learned = [row for row in shown if row["method"] == OURS]
    if not learned:
        return []
    ours = min(learned, key=lambda row: (abs(row["macs"] - SHOWN_SHARE), row["seed"]))
    affordable = [row for row in shown if row["macs"] <= ours["macs"] * (1 + SHOWN_SLACK)]
    best: dict[str, Row] = {}
    for row in sorted(affordable, key=lambda row: -row["psnr_mean"]):
        if family_of(row["method"]).name not in (OURS, FULL):
            best.setdefault(row["method"], row)
    firsts = {family_of(method).name: method for method in reversed(best)}.values()
    chosen = sorted(best, key=lambda method: method not in firsts)[:SHOWN_RIVALS]
    picked = [row for row in shown if row["method"] == FULL] + [ours]
    picked += sorted((best[method] for method in chosen), key=lambda row: -row["psnr_mean"])
    return [(*_caption(row), Image.open(one.strip(row))) for row in picked]


def _caption(row: Row) -> tuple[str, str]:
    if row["method"] == FULL:
        return "full run", "100% of the MACs"
    name = main_score([row])
    score = "" if name is None else f", {name} {value_of(row, name):.3g}"
    return f"{row['method']} {row['setting']}", f"{row['macs']:.1%}, {row['psnr_mean']:.1f} dB{score}"


def _circumstances(parts: Sequence[tuple[Results, int, Sequence[Row]]]) -> str:
    body, used = [], defaultdict(list)
    for one, steps, rows in parts:
        found = one.circumstances.get(str(steps), {})
        seeds = found.get("seeds") or []
        images = sorted({row.get("num_images", len(seeds)) for row in rows} - {0})
        versions = found.get("versions", {})
        guidance, draws = found.get("guidance_scale"), found.get("bootstrap", {}).get("draws")
        body.append([
            one.model,
            str(steps),
            f"{found.get('pipeline', '–')}, {found.get('scheduler', '–')}",
            "none" if guidance is None else f"{guidance:g}",
            " or ".join(map(str, images)) or "–",
            f"{seeds[0]} to {seeds[-1]}" if seeds else "–",
            "–" if draws is None else str(draws),
            f"{found.get('dtype', '–')}, {found.get('device', '–')}",
        ])  # fmt: skip
        used[", ".join(f"{name} {version}" for name, version in versions.items())].append(f"{one.model}, {steps} steps")
    titles = ["model", "steps", "pipeline", "guidance", "images", "seeds", "bootstrap draws", "ran on"]
    said = [text if len(used) == 1 else f"{text} ({'; '.join(runs)})" for text, runs in used.items() if text]
    return "## What was measured\n\n" + markdown(titles, body) + "".join(f"\nMeasured with {one}.\n" for one in said)


def _shares(results: Iterable[Results]) -> str:
    """Measured speed-up over 1 / MACs, per method."""
    body = []
    for one in results:
        for steps, rows in one.parts():
            found: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                if row.get("speed"):
                    numbers = row["speed"]["denoiser_speedup"], row["speed"]["share_of_bound"]
                    found.setdefault(row["method"], []).append(numbers)
            for extra in one.speed:
                if extra["steps"] == steps:
                    numbers = extra["denoiser_speedup"], extra["share_of_bound"]
                    found.setdefault(extra["mask"].rpartition(" ")[0] or extra["mask"], []).append(numbers)
            for method in in_order(found):
                speeds, shares = zip(*found[method], strict=True)
                body.append([
                    one.model,
                    str(steps),
                    method,
                    str(len(shares)),
                    _range(speeds, ".2f"),
                    f"{median(shares):.2f}",
                    _range(shares, ".2f"),
                ])  # fmt: skip
    heading = "## Measured speed-up as a share of what the MACs promise\n"
    if not body:
        return f"{heading}\nNo speed-up was measured.\n"
    titles = ["model", "steps", "method", "rows", "speed-up", "of 1 / MACs, median", "smallest to largest"]
    return f"{heading}\n{markdown(titles, body)}"


def _range(values: Sequence[float], form: str) -> str:
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return low if low == high else f"{low}–{high}"
