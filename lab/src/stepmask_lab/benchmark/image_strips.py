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
    """Write the first images side by side, every pixel as it was made; of videos the first frames.

    Args:
        images: (N, C, H, W) in [0, 1], or (N, frames, C, H, W); of more than three channels the first is shown.
        path: Of the file.
    """
    images = images[:SHOWN] if images.dim() == 4 else images[:SHOWN, 0]
    images = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(torch.cat(list(pixels), dim=-1).permute(1, 2, 0).numpy()).save(file, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, file.getvalue())
