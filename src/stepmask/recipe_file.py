"""The form of recipe files: what may stand in them, and how it is laid out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from numbers import Real
from textwrap import indent
from typing import Any

from stepmask import mask_file
from stepmask.errors import MaskFileError, StepMaskError

FORMAT, FORMAT_VERSION = "stepmask-recipe", 1
MOST = 1e6
"""No timestep or sigma is larger."""

_KINDS: dict[str, type | tuple[type, ...]] = {
    "num_inference_steps": int,
    "scheduler": dict,
    "timesteps": list,
    "sigmas": list,
    "resolution": dict,
    "guidance": str,
    "mask": dict,
    "provenance": dict,
}
_REQUIRED = ("num_inference_steps", "provenance")


def parsed(content: Any) -> dict[str, Any]:
    """Arguments of a `Recipe` from a file's content; the mask and the resolution are still JSON values.

    Raises:
        MaskFileError: It is no recipe, or of another format version.
        StepMaskError: It says impossible things.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise MaskFileError(f'not a recipe file: expected a JSON object with "format": "{FORMAT}"')
    version = content.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise MaskFileError(
            f"it has format version {version!r:.80}, this stepmask reads version {FORMAT_VERSION}: update stepmask, or "
            "save the recipe anew"
        )
    values = {name: content[name] for name in content if name not in ("format", "format_version")}
    strangers, missing = sorted(set(values) - set(_KINDS)), [name for name in _KINDS if name not in values]
    if strangers or missing:
        said = f"{strangers[0]!r:.80} is no entry of a recipe" if strangers else f"{missing[0]!r} is missing"
        raise StepMaskError(said)
    for name, kind in _KINDS.items():
        if not isinstance(values[name], kind) and (values[name] is not None or name in _REQUIRED):
            raise StepMaskError(f'"{name}" must be {_WORDS[kind]}, got {type(values[name]).__name__}')
    mask_file.check_scheduler(values["scheduler"])
    mask_file.check_run(values["provenance"])
    low = values["resolution"]
    if low is not None and set(low) != {"factor", "switch", "way"}:
        raise StepMaskError('"resolution" must hold "factor", "switch" and "way", and nothing else')
    return values


_WORDS = {int: "a whole number", dict: "a JSON object", list: "a list", str: "a text"}


def readable_json(content: dict[str, Any]) -> str:
    """JSON with an entry a line, and the mask in it laid out as in a file of its own."""
    lines = []
    for key, value in content.items():
        if key == "mask" and value is not None:
            text = indent(mask_file.readable_json(value), "  ").lstrip()
        else:
            text = json.dumps(value, allow_nan=False)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"


def finite_numbers(name: str, values: Iterable[Any]) -> list[float]:
    """The values as floats.

    Raises:
        StepMaskError: One of them is no number, not finite, or larger than any that makes sense.
    """
    found = []
    for value in values:
        if hasattr(value, "item"):
            value = value.item()
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or abs(value) > MOST:
            raise StepMaskError(f"{name} must be finite numbers up to {MOST:g}, got {value!r:.80}")
        found.append(float(value))
    return found


def whole_number(name: str, value: Any, least: int, most: int) -> None:
    """Raise unless a value is a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise StepMaskError(f"{name} must be a whole number from {least} to {most:,}, got {value!r:.80}")
