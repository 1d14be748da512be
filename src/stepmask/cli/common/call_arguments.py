"""What the command line says to the pipeline's call: ``--guidance-scale``, and ``--call NAME=VALUE`` for the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from stepmask.errors import StepMaskError

Guidance = Annotated[
    float | None,
    typer.Option(
        help="Strength of classifier-free guidance. The default is what the mask was learned with, else the pipeline's "
        "own."
    ),
]
Call = Annotated[
    list[str] | None,
    typer.Option(
        "--call",
        metavar="NAME=VALUE",
        help="Another argument of the pipeline's call, such as height=512 or image=photo.png. VALUE is a number, true, "
        "false, null, a list in JSON, a text, or the name of an image file. May be given several times.",
    ),
]
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def call_kwargs(guidance_scale: float | None, call: Iterable[str] | None = None) -> dict[str, Any]:
    """Arguments of the pipeline's call: the guidance, and what texts ``NAME=VALUE`` say.

    Raises:
        StepMaskError: Guidance is no finite number; an argument is none, is given twice, or names no image.
    """
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise StepMaskError(f"guidance must be a finite number, such as 4.5, got {guidance_scale}")
    found: dict[str, Any] = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    return assignments(call, "--call takes NAME=VALUE, height=512 for example", found)


def assignments(texts: Iterable[str] | None, takes: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Values by name from texts ``NAME=VALUE``, beside those of `before`; `takes` says what is right, for errors.

    Raises:
        StepMaskError: A text is no assignment, or gives a name twice.
    """
    found = dict(before or {})
    for text in texts or ():
        name, separator, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or not name.isidentifier():
            raise StepMaskError(f"{takes}, got {text!r}")
        if name in found:
            raise StepMaskError(f"{name} is given twice: give it once")
        found[name] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    """A number, a truth value, nothing, a list, an image or a text."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return _image(Path(value)) if isinstance(value, str) and value.lower().endswith(IMAGES) else value


def _no_number(text: str) -> None:
    raise ValueError(text)


def _image(path: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it holds no image"
        raise StepMaskError(f"cannot read the image {path}: {reason}") from error
