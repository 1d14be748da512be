"""What learning was asked for and what it reached, in words, from the provenance of masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepmask.words import size

if TYPE_CHECKING:
    from rich.table import Table

    from stepmask.family import MaskFamily
    from stepmask.mask import StepMask


FAR_BELOW = 0.03
"""A share of the MACs that is so much less than what was asked for needs a reason."""


def asked(mask: StepMask) -> str:
    """What the user wanted."""
    wanted = mask.provenance.get("asked") or {"target_macs": mask.provenance.get("target_macs")}
    spelled = {
        "target_macs": lambda v: f"{v:.1%} of the MACs",
        "target_speedup": lambda v: f"{v:g} times the speed",
        "min_psnr": lambda v: f"a PSNR of {v:g} dB",
        "targets": lambda v: f"{', '.join(f'{one:.0%}' for one in v)} of the MACs",
        "max_cache_bytes": lambda v: f"at most {size(v)} of cache per image",
        "max_minutes": lambda v: f"at most {v:g} minutes of learning",
    }
    return ", ".join(spelled[name](value) for name, value in wanted.items() if value is not None)


def reached(mask: StepMask) -> str:
    """What the mask has; of the images only what was measured on held-back noise."""
    try:
        return _reached(mask.provenance)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):  # says what it likes
        return "the mask does not say it in a form that stepmask knows"


def _reached(record: Any) -> str:
    words = [f"{record['macs']:.1%} of the MACs"]
    if "target_speedup" in record.get("asked", {}):
        time = record["latency"]
        words.append(
            f"{1 / time['share']:.2f} times the speed of the denoiser by the latencies of its sites for "
            f"{time['batch_size']} image{'s' if time['batch_size'] > 1 else ''} at once"
        )
    if "psnr" in record:
        words.append(f"PSNR {record['psnr']['mean']:.1f} dB{_confidence(record, ' (95% confidence {})')}")
        words[-1] += f" on {record['psnr']['held_back_images']} held-back images"
    else:
        words.append("PSNR not measured (stepmask evaluate does)")
    if "cache_bytes_per_image" in record:
        words.append(f"{size(record['cache_bytes_per_image'])} of cache per image")
    wanted = record.get("asked", {})
    alone = wanted.keys() - {"max_minutes"} == {"target_macs"}
    if alone and "psnr" in record and record["macs"] < wanted["target_macs"] - FAR_BELOW:
        words.append("and none that was tried and costs more came closer to the full run")
    return ", ".join(words)


def family_table(family: MaskFamily) -> Table:
    """One line per mask, from expensive to cheap."""
    from rich.table import Table

    table = Table(title="from expensive to cheap", title_justify="left")
    for heading in ("MACs", "PSNR", "95% confidence", "cache per image"):
        table.add_column(heading, justify="right")
    for member in family:
        record: Any = member.mask.provenance
        cache = size(record["cache_bytes_per_image"])
        table.add_row(f"{record['macs']:.1%}", f"{member.psnr:.1f} dB", _confidence(record), cache)
    table.caption = f"PSNR against the full run, on {record['psnr']['held_back_images']} held-back images"
    table.caption_justify = "left"
    return table


def _confidence(record: Any, words: str = "{}") -> str:
    """The interval in words; nothing where it was not measured."""
    known = record["psnr"].get("confidence_95")
    return words.format(f"{known[0]:.1f} to {known[1]:.1f}") if known else ""
