"""A benchmark's folder as a page to explore: every row, its mask and its pictures where they are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from stepmask.errors import StepMaskError
from stepmask.mask import StepMask
from stepmask.report import Axis, Entry, Method, Report, Study, facts_of, mask_map
from stepmask.report.content import COST, PSNR, is_number
from stepmask.report.on_model import maps_on
from stepmask_lab import reference
from stepmask_lab.benchmark.image_strips import SHOWN
from stepmask_lab.benchmark.methods import methods
from stepmask_lab.benchmark.result_files import Key, ResultFiles, models_in
from stepmask_lab.pages.at_a_glance import SLACK
from stepmask_lab.pages.method_families import FULL, OURS, family_of, in_order
from stepmask_lab.pages.rows import REACH, Row, score_names, speedup_of, value_of

AXES = (
    COST,
    Axis("speedup", "speed-up of the denoiser", "cost", "times"),
    Axis("cache", "cache of a batch", "cost", "bytes", "lower"),
    PSNR,
    Axis("worst", "PSNR of the worst image", "quality", "db"),
    Axis("ssim", "SSIM against the full run", "quality"),
)
HIGHER = ("is", "precision", "recall", "clip")
"""How the names of scores begin of which more is better; of all others, distances, less is."""
DRAWN = (
    "model", "steps", "method", "setting", "macs", "psnr_mean", "psnr_min", "psnr_sem", "psnrs", "ssim_mean", "scores",
    "peak_cache_bytes",
)  # fmt: skip
"""Fields of a row that the page shows elsewhere, or not at all."""


def benchmark_report(folder: Path) -> Report:
    """A page on all results in a benchmark's folder, or in ``results`` within it.

    Maps show what runs on the model where it is a reference model that the mask fits, and what masks ask for elsewhere.

    Raises:
        StepMaskError: There are no results, or some that cannot be used.
    """
    try:
        places = [folder, folder / "results"]
        source = next((place for place in places if place.is_dir() and models_in(place)), None)
        if source is None:
            raise StepMaskError(f"{folder} holds no results of a benchmark: measure some with stepmask benchmark MODEL")
        studies = [study for name in models_in(source) for study in _studies(source, folder, name)]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise StepMaskError(
            f"the results in {folder} cannot be used ({reason}): they are not as stepmask benchmark writes them"
        ) from error
    if not studies:
        raise StepMaskError(
            f"{folder} holds rows of the full run alone: measure a method with stepmask benchmark MODEL"
        )
    names = ", ".join(dict.fromkeys(study.name.rpartition(",")[0] for study in studies))
    return Report(f"Benchmark of {names}", folder.resolve().name, studies)


def _studies(source: Path, folder: Path, model: str) -> Iterator[Study]:
    files = ResultFiles(source, model, [method.name for method in methods()])
    rows, circumstances, maps_for = files.rows(), files.circumstances(), cache(partial(_maps_for, model))
    for steps in sorted({row["steps"] for row in rows}, reverse=True):
        same = [row for row in rows if row["steps"] == steps]
        measured = circumstances.get(str(steps), {})
        mapped = maps_for(measured.get("guidance_scale"))
        entries = [_entry(row, [source, folder], mapped) for row in same if row["method"] != FULL]
        full = next((row for row in same if row["method"] == FULL), None)
        if entries:
            scores = [Axis(name, name, "quality", better=_better(name)) for name in score_names(same)]
            known = {name for entry in entries for name, value in entry.values.items() if value is not None}
            yield Study(
                f"{model}, {steps} steps",
                entries,
                [_method(name) for name in in_order(entry.method for entry in entries)],
                [axis for axis in (*AXES, *scores) if axis.key in known],
                SLACK,
                None if full is None else _picture(full, [source, folder]),
                max(1, min(SHOWN, same[0]["num_images"])),
                facts_of(measured),
            )


def _entry(row: Row, places: list[Path], mapped: Callable[[StepMask], Mapping[str, Any]]) -> Entry:
    mean, reach = row["psnr_mean"], REACH * row["psnr_sem"]
    values = {
        "macs": row["macs"],
        "speedup": speedup_of(row),
        "cache": row.get("peak_cache_bytes"),
        "psnr": mean,
        "worst": row["psnr_min"],
        "ssim": row.get("ssim_mean"),
        "seed": row["seed"],
        **{name: value_of(row, name) for name in score_names([row])},
    }
    mask = _file(row, places, "masks", "json")
    more = facts_of({name: value for name, value in row.items() if name not in DRAWN})
    setting = str(row["setting"]) if row["seed"] is None else f"{row['setting']}, seed {row['seed']}"
    return Entry(
        row["method"],
        setting,
        {name: value if is_number(value) else None for name, value in values.items()},
        (mean - reach, mean + reach),
        None if mask is None else mapped(StepMask.load(mask)),
        _picture(row, places),
        more,
    )


def _maps_for(model: str, guidance_scale: float | None) -> Callable[[StepMask], Mapping[str, Any]]:
    """What makes the maps of a model's masks: on it where it is at hand."""
    call = {} if guidance_scale is None else {"guidance_scale": guidance_scale}

    @cache
    def pipeline() -> Any:
        return reference.load(model)

    known: dict[Any, Callable[[StepMask], Mapping[str, Any]]] = {}

    def mapped(mask: StepMask) -> Mapping[str, Any]:
        """Masks of the same sites are described once."""
        same = mask.graph, mask.sites
        if model in reference.names():
            with contextlib.suppress(StepMaskError):  # of an earlier model, or of one that needs what is not installed
                known[same] = known.get(same) or maps_on(pipeline(), mask, call)
                return known[same](mask)
        return mask_map(mask)

    return mapped


def _file(row: Row, places: list[Path], kind: str, ending: str) -> Path | None:
    """What a benchmark keeps of a row beside its numbers; None where it is not there."""
    slug = Key(*(row[name] for name in Key._fields)).slug
    return next((path for place in places if (path := place / kind / f"{slug}.{ending}").is_file()), None)


def _picture(row: Row, places: list[Path]) -> bytes | None:
    path = _file(row, places, "pictures", "png")
    if path is None:
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise StepMaskError(f"{path} is no PNG ({error}): delete it, and stepmask benchmark makes it anew") from error
    return path.read_bytes()


def _better(score: str) -> Any:
    return "higher" if score.split("_")[0] in HIGHER else "lower"


def _method(name: str) -> Method:
    colour = family_of(name).colour
    return Method(name, colour, _lighter(colour), ours=name == OURS)


def _lighter(colour: str, share: float = 0.4) -> str:
    """The colour with so much white in it, to be seen on a dark ground."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + share * (255 - part)):02x}" for part in parts)
