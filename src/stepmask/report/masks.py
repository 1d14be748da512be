"""Studies of a mask and of a family, from what their files say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stepmask.errors import StepMaskError
from stepmask.family import MaskFamily
from stepmask.mask import StepMask
from stepmask.report.content import COST, MACS, PSNR, Axis, Entry, Facts, Study, facts_of, is_number
from stepmask.report.mask_map import MAX_CELLS, mask_map

Mapped = Callable[[StepMask], Mapping[str, Any]]
"""Makes the map of a mask; `mask_map` knows the mask alone, others the model too."""

CACHE = Axis("cache", "cache per image", "cost", "bytes", "lower")
MAX_FAMILY_CELLS = 10 * MAX_CELLS


def mask_study(mask: StepMask, mapped: Mapped = mask_map) -> Study:
    """One mask: its map, and where it comes from."""
    entry = Entry("mask", f"{mask.num_rows} steps", _values(mask), _interval(mask), mapped(mask))
    return Study(_name(mask), [entry], facts=_facts(mask))


def family_study(family: MaskFamily, mapped: Mapped = mask_map) -> Study:
    """The members of a family, from expensive to cheap: their trade-off, and the map of each.

    Raises:
        StepMaskError: They have more cells than a page can show.
    """
    cells = sum(member.mask.compute.size for member in family)
    if cells > MAX_FAMILY_CELLS:
        raise StepMaskError(
            f"the family has {cells:,} cells in all, and a page shows at most {MAX_FAMILY_CELLS:,}: pick one mask with "
            "--at SHARE"
        )
    entries = [
        Entry(
            "learned mask",
            f"at {member.macs:.1%}",
            _values(member.mask) | {MACS: member.macs, PSNR.key: member.psnr},
            _interval(member.mask),
            mapped(member.mask),
            facts=_facts(member.mask),
        )
        for member in family
    ]
    axes = [COST, PSNR, *([CACHE] if any(entry.values.get(CACHE.key) for entry in entries) else [])]
    return Study(_name(family.members[0].mask), entries, axes=axes)


def _name(mask: StepMask) -> str:
    """The model, the steps with their scheduler, and the way that the mask was made, as far as they are known."""
    model, method = (mask.provenance.get(key) for key in ("model", "method"))
    steps = f"{mask.provenance.get('num_inference_steps', mask.num_rows)} steps"
    scheduler = f" of {mask.scheduler['class']}" if mask.scheduler else ""
    parts = [model if isinstance(model, str) else f"{len(mask.sites)} sites", steps + scheduler]
    return ", ".join([*parts, *([f"made by {method}"] if isinstance(method, str) else [])])


def _facts(mask: StepMask) -> Facts:
    facts = facts_of(mask.provenance)
    facts += facts_of({"scheduler": mask.scheduler} if mask.scheduler else {"scheduler": "any"})
    return [*facts, ("fingerprint of the model's structure", mask.graph or "any")]


def _values(mask: StepMask) -> dict[str, float | None]:
    """What provenance says, which may be anything."""
    record = mask.provenance
    psnr = record.get("psnr")
    found = {
        MACS: record.get("macs"),
        PSNR.key: psnr.get("mean") if isinstance(psnr, dict) else None,
        CACHE.key: record.get("cache_bytes_per_image"),
    }
    return {name: value if is_number(value) else None for name, value in found.items()}


def _interval(mask: StepMask) -> tuple[float, float] | None:
    psnr = mask.provenance.get("psnr")
    known = psnr.get("confidence_95") if isinstance(psnr, dict) else None
    pair = isinstance(known, list | tuple) and len(known) == 2 and all(map(is_number, known))
    return (known[0], known[1]) if pair else None
