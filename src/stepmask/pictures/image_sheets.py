"""Figure 1: the same noise with the full and with the masked model, side by side, every pixel as it was made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stepmask.errors import StepMaskError

TILE_PIXELS = 96
"""Small images are enlarged to at least this, by a whole factor, so that no pixel is blurred."""

GAP, MARGIN, LINE = 3, 24, 18


def to_pixels(images: Any) -> np.ndarray:
    """Return pictures as bytes.

    Args:
        images: (N, C, H, W) tensor or array in [0, 1]; C is 1 or 3, of more channels (latents) three are shown.

    Returns:
        (N, H, W, 3) uint8.
    """
    pixels = np.clip(np.asarray(images, dtype=np.float32), 0, 1)
    if pixels.ndim != 4 or not len(pixels):
        raise StepMaskError(f"expected images of the shape (N, C, H, W), got {pixels.shape}")
    pixels = np.repeat(pixels, 3, axis=1) if pixels.shape[1] < 3 else pixels
    return np.rint(255 * pixels[:, :3]).astype(np.uint8).transpose(0, 2, 3, 1)


def tiles(images: Any, columns: int | None = None) -> Image.Image:
    """Lay all images out in one grid, enlarged by nearest neighbour.

    Args:
        images: As `to_pixels` takes them.
        columns: By default as many as make the grid about square.
    """
    pictures = [_enlarged(Image.fromarray(pixels)) for pixels in to_pixels(images)]
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    step_x, step_y = pictures[0].width + GAP, pictures[0].height + GAP
    sheet = Image.new("RGB", (columns * step_x - GAP, -(-len(pictures) // columns) * step_y - GAP), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * step_x, i // columns * step_y))
    return sheet


def side_by_side(
    full: Any,
    masked: Any,
    captions: Sequence[str] = ("full", "masked"),
    notes: Sequence[str] = ("", ""),
    limit: int = 16,
) -> Image.Image:
    """Lay out the full run's images at the left and the masked run's at the right, in the same order.

    Args:
        full: As `to_pixels` takes them.
        masked: The same shape.
        captions: Large line above each half.
        notes: Smaller line below each caption.
        limit: Show the first images only, at most this many.
    """
    halves = [tiles(images[:limit]) for images in (full, masked)]
    if halves[0].size != halves[1].size:
        raise StepMaskError("full and masked images must have the same shape: make both with the same seeds")
    large, plain = ImageFont.load_default(20), ImageFont.load_default(15)
    half_width = max(halves[0].width, _width(captions, large), _width(notes, plain))
    top = MARGIN + 52
    sheet = Image.new("RGB", (2 * half_width + 3 * MARGIN, top + halves[0].height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, half in enumerate(halves):
        left = MARGIN + i * (half_width + MARGIN)
        draw.text((left, MARGIN - 6), captions[i], fill="black", font=large)
        draw.text((left, MARGIN + 21), notes[i], fill="#555555", font=plain)
        sheet.paste(half, (left, top))
    return sheet


def same_seeds(strips: Sequence[tuple[str, str, Image.Image]], captions: Sequence[str] = ()) -> Image.Image:
    """Lay out one row per method, with the same seed in each column and every pixel as it was made.

    Args:
        strips: Name, a note below it, and the images side by side, each as high as it is wide; all of one size.
        captions: What stands above the columns, broken into lines as wide as they are.
    """
    if not strips or len({strip.size for _, _, strip in strips}) != 1:
        raise StepMaskError("a grid of the same seeds needs strips of one size: make all with the same images")
    large, plain = ImageFont.load_default(17), ImageFont.load_default(14)
    names, notes, images = zip(*strips, strict=True)
    size, count = images[0].height, images[0].width // images[0].height
    label = max(_width(names, large), _width(notes, plain)) + MARGIN
    step = _enlarged(images[0].crop((0, 0, size, size))).width + GAP
    above = [_broken(caption, plain, step - 4 * GAP) for caption in captions]
    head = MARGIN + LINE * max((caption.count("\n") + 1 for caption in above), default=0)
    sheet = Image.new("RGB", (MARGIN + label + count * step + MARGIN, head + len(strips) * step + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(above[:count]):
        draw.text((MARGIN + label + column * step, MARGIN // 2), caption, fill="black", font=plain)
    for row, (name, note, strip) in enumerate(strips):
        top = head + row * step
        draw.text((MARGIN, top + step // 2 - 22), name, fill="black", font=large)
        draw.text((MARGIN, top + step // 2 + 2), note, fill="#555555", font=plain)
        for column in range(count):
            tile = strip.convert("RGB").crop((column * size, 0, (column + 1) * size, size))
            sheet.paste(_enlarged(tile), (MARGIN + label + column * step, top))
    return sheet


def _broken(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A text with line breaks between words, so that its lines fit a width where words do."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _enlarged(tile: Image.Image) -> Image.Image:
    scale = max(1, math.ceil(TILE_PIXELS / max(tile.size)))
    return tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)


def _width(texts: Sequence[str], font: ImageFont.FreeTypeFont) -> int:
    return math.ceil(max(map(font.getlength, texts)))
