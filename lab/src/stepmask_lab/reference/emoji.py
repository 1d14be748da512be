"""Emoji of three styles as one array, rendered from the drawings in npm packages of icons; it downloads nothing.

The drawings stay outside of this package. Noto Emoji is of Google, Apache-2.0; Fluent Emoji is of Microsoft, MIT.
``npm install --prefix FOLDER`` with the names in `STYLES` brings them. Rendering needs resvg-py: the extra ``emoji``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from stepmask.errors import StepMaskError

SIZE = 64
"""Pixels of a picture, each way."""
OVERSAMPLING = 2
STYLES = {
    "noto": "@iconify-json/noto",
    "flat": "@iconify-json/fluent-emoji-flat",
    "glossy": "@iconify-json/fluent-emoji",
}
"""The npm package of each style."""
HELD_OUT_EVERY = 8
_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_NAMES = Path(__file__).parent / "emoji.txt"


class Emoji(NamedTuple):
    """What an emoji is called in captions, and in the packages."""

    phrase: str
    icon: str


def _read_names() -> Iterator[Emoji]:
    for line in _NAMES.read_text().splitlines():
        phrase, _, icon = line.partition(" = ")
        yield Emoji(phrase, icon or noun(phrase).replace(" ", "-"))


def noun(phrase: str) -> str:
    """A phrase without its article."""
    first, _, rest = phrase.partition(" ")
    return rest if first in ("a", "an") else phrase


EMOJI = tuple(_read_names())
PAIRS = tuple((emoji, style) for emoji in EMOJI for style in STYLES)
"""Every emoji in every style; labels are places in it."""


def _captions(emoji: Emoji, style: str) -> tuple[str, ...]:
    return (
        f"{emoji.phrase}, {style} style",
        f"{emoji.phrase} in {style} style",
        f"{noun(emoji.phrase)}, {style}",
        emoji.phrase,
    )


CAPTIONS = tuple(_captions(*pair) for pair in PAIRS)
"""The captions of every pair; the last says nothing of the style."""


def held_out() -> np.ndarray:
    """Which of `PAIRS` no training sees: one style of every eighth emoji, the styles in turn. Bools (N,)."""
    number, style = np.divmod(np.arange(len(PAIRS)), len(STYLES))
    turn, place = np.divmod(number, HELD_OUT_EVERY)
    return (place == HELD_OUT_EVERY // 2) & (turn % len(STYLES) == style)


def load_emoji(source: str | Path, cache: str | Path | None = None) -> np.ndarray:
    """Render all of `PAIRS` on white.

    Args:
        source: Folder that npm installed the packages in.
        cache: Folder where the pictures are kept for the next time; None keeps none.

    Returns:
        Images (N, 3, 64, 64) uint8 in the order of `PAIRS`.

    Raises:
        StepMaskError: A package or an icon is missing, or resvg-py is not installed.
    """
    packages = {style: _package(Path(source), name) for style, name in STYLES.items()}
    kept = None if cache is None else Path(cache) / f"emoji-{SIZE}-{_fingerprint(packages)}.npy"
    if kept and kept.exists():
        return np.load(kept)
    icons = {style: json.loads((package / "icons.json").read_text()) for style, package in packages.items()}
    images = np.stack([_rendered(icons[style], emoji.icon, STYLES[style]) for emoji, style in PAIRS])
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".new.npy")
        np.save(fresh, images)
        fresh.replace(kept)
    return images


def _package(source: Path, name: str) -> Path:
    package = source / "node_modules" / name
    if not (package / "icons.json").exists():
        raise StepMaskError(f"no {name} in {source}: npm install --prefix {source} {' '.join(STYLES.values())}")
    return package


def _fingerprint(packages: dict[str, Path]) -> str:
    """Of everything that the pictures depend on."""
    versions = [json.loads((package / "package.json").read_text())["version"] for package in packages.values()]
    return hashlib.sha256(json.dumps([versions, OVERSAMPLING, _NAMES.read_text()]).encode()).hexdigest()[:12]


def _rendered(icons: dict, name: str, package: str) -> np.ndarray:
    """One icon as (3, 64, 64) uint8."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise StepMaskError("emoji are rendered by resvg-py: pip install 'stepmask-lab[emoji]'") from error
    if name not in icons["icons"]:
        raise StepMaskError(f"{package} has no icon {name!r}: install another version of it")
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    large = SIZE * OVERSAMPLING
    square = f'width="{large}" height="{large}" viewBox="0 0 {width} {height}"'
    svg = f"<svg {_NAMESPACES} {square}>{icon['body']}</svg>"
    encoded = svg_to_bytes(svg_string=svg, background="white", skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(encoded))).convert("RGB")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).transpose(2, 0, 1)
