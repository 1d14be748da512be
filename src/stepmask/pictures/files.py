"""Writes pictures and videos, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stepmask.files import write_atomically

PNG_DPI = 150
FRAME_MS = 62
"""Of videos: 16 frames a second, as Wan makes them."""


def png(picture: Any) -> bytes:
    """Return a matplotlib figure or a PIL image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):
        drawn = io.BytesIO()
        picture.savefig(drawn, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
        palette = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)  # a third of the size
        palette.save(buffer, format="PNG", optimize=True)
    else:
        picture.save(buffer, format="PNG")
    return buffer.getvalue()


def save_png(picture: Any, path: str | Path) -> Path:
    """Write a matplotlib figure or a PIL image as PNG, whole or not at all.

    Raises:
        StepMaskError: The file cannot be written.
    """
    write_atomically(path, png(picture))
    return Path(path)


def save_animation(frames: Sequence[Image.Image], path: str | Path) -> Path:
    """Write PIL images as the frames of an animated WebP that loops, with every pixel as it was made.

    Raises:
        StepMaskError: The file cannot be written.
    """
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True, method=0, duration=FRAME_MS, loop=0
    )
    write_atomically(path, buffer.getvalue())
    return Path(path)
