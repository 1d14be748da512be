"""The first images of a cell in one row, as PNG: what pages show beside numbers."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stepmask.files import write_atomically

SHOWN = 8
"""Images in a strip."""


def save_strip(images: Tensor, path: Path) -> None:
    """Write the first images side by side; `strip` says which.

    Args:
        images: As `strip` takes them.
        path: Of the file.
    """
    file = io.BytesIO()
    strip(images).save(file, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, file.getvalue())


def strip(images: Tensor, most: int = SHOWN) -> Image.Image:
    """The first images side by side, every pixel as it was made; of videos the first frames.

    Args:
        images: (N, C, H, W) in [0, 1], or (N, frames, C, H, W); of more than three channels the first is shown.
        most: So many of them.
    """
    images = images[:most] if images.dim() == 4 else images[:most, 0]
    images = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(torch.cat(list(pixels), dim=-1).permute(1, 2, 0).numpy())
