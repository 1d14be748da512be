"""A gallery: one HTML page on many masks, with pictures, numbers and how to use each; nothing is loaded from anywhere.

What files say stands in the page as text, and pictures are decoded and written anew.
"""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from stepmask import pictures
from stepmask.cards.card import CARD, EVALUATION, SIDE_BY_SIDE
from stepmask.cards.code import code_for
from stepmask.cards.sheet import Sheet, said, sheet_of
from stepmask.errors import MaskFileError, StepMaskError
from stepmask.files import is_file, is_folder, read_bytes, read_json
from stepmask.hub import find, is_repo_id, name_of
from stepmask.sources import NAMES, load

MOST_BYTES = 32 * 2**20
"""Pictures and cards of more bytes are left out."""
WIDEST = 1100
"""Pixels of a picture on the page; wider ones are made smaller."""
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What pillow raises of a file that is no picture."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
.gallery {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 18px; }}
.gallery .card {{ margin: 0; min-width: 0; }}
.gallery h2 {{ overflow-wrap: anywhere; }}
.gallery img {{ max-width: 100%; height: auto; display: block; margin: 14px 0; border-radius: 6px; }}
.gallery pre {{ overflow-x: auto; background: var(--wash); border-radius: 8px; padding: 12px 14px; margin: 14px 0;
  font: 13px/1.5 var(--mono); }}
.gallery details {{ margin-top: 12px; }}
.gallery details > summary {{ font-size: 15px; }}
.gallery .list tbody tr {{ cursor: auto; }}
</style>
</head>
<body>
<main>
<header class="top"><div class="title"><h1>{title}</h1><p class="soft">{words}</p></div></header>
<div class="gallery">
{exhibits}
</div>
<p class="foot">Made by stepmask {version}. The numbers are those that the files say; PSNR is the closeness to the
images of the full run from the same noise: higher is closer.</p>
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Exhibit:
    """What the page shows of one mask, family or recipe."""

    name: str
    sheet: Sheet
    base_model: str | None
    license: str | None
    picture: Image.Image | None
    """The full and the masked run side by side."""
    map: Image.Image | None
    """What the mask decides."""


def sources_in(what: Path) -> list[Path]:
    """What a gallery shows of a file, a folder or a name: itself, or all folders of masks up to two levels below."""
    if not is_folder(what) or any(is_file(what / name) for name in NAMES):
        return [what]
    found = {path.parent for level in ("*", "*/*") for name in NAMES for path in what.glob(f"{level}/{name}")}
    if not found:
        raise MaskFileError(f"folder {what} and the folders in it have no {' and no '.join(NAMES)}")
    return sorted(found)


def exhibit_of(source: Path) -> Exhibit:
    """Read what lies in a file, a folder or a repository, with what lies beside it.

    Raises:
        MaskFileError: There is no mask, family or recipe.
    """
    decision = load(source)
    evaluation = _beside(source, EVALUATION)
    sheet = sheet_of(decision, _object_in(evaluation))
    header = _header_of(_beside(source, CARD))
    base_model = header.get("base_model") or sheet.record.get("base_model")
    return Exhibit(
        name=name_of(source) if is_folder(source) else source.as_posix(),
        sheet=sheet,
        base_model=base_model if isinstance(base_model, str) and is_repo_id(base_model) else None,
        license=said(header["license"]) if header.get("license") else None,
        picture=_picture_in(_beside(source, SIDE_BY_SIDE)),
        map=_map_of(sheet),
    )


def gallery_page(exhibits: Iterable[Exhibit], title: str = "Gallery of masks") -> str:
    """The text of the page."""
    from stepmask import __version__

    shown = [_shown(one) for one in exhibits]
    style = files("stepmask.report").joinpath("page", "page.css").read_text(encoding="utf-8")
    words = f"{len(shown)} to choose from" if len(shown) > 1 else "One to begin with"
    return PAGE.format(
        title=html.escape(title), style=style, words=words, exhibits="\n".join(shown), version=html.escape(__version__)
    )


def _shown(one: Exhibit) -> str:
    """One card of the page."""
    sheet, text = one.sheet, html.escape
    model = one.base_model
    link = f'<a href="https://huggingface.co/{text(model)}">{text(model)}</a>' if model else ""
    about = [part for part in (text(sheet.kind), link, text(one.license or "")) if part]
    parts = [f"<h2>{text(one.name)}</h2>", f'<p class="soft">{" · ".join(about)}</p>', f"<p>{text(sheet.summary)}</p>"]
    if one.picture is not None:
        parts.append(_image(one.picture, "The same noise with the full model, left, and under the mask, right"))
    facts = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in sheet.facts)
    parts.append(f'<dl class="facts">{facts}</dl>')
    if sheet.members:
        parts.append(_table(sheet.members))
    parts.append(f"<pre>{text(code_for(sheet, one.name, model))}</pre>")
    if one.map is not None:
        drawn = _image(one.map, "Every site at every step")
        parts.append(f"<details><summary>What it decides</summary>{drawn}</details>")
    return f'<section class="card">{"".join(parts)}</section>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ([html.escape(cell) for cell in row] for row in rows)
    lines = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in body)
    return f'<div class="scroll"><table class="list"><tr><th>{"</th><th>".join(head)}</th></tr>{lines}</table></div>'


def _image(picture: Image.Image, words: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{words}" src="data:image/webp;base64,{data}" width="{picture.width}" height="{picture.height}">'


def _beside(source: Path, name: str) -> Path | None:
    """A file beside a mask in its folder or repository; None where there is none, or it cannot be had."""
    if is_file(source):
        return None
    try:
        return find(source, [name])
    except MaskFileError:
        return None


def _object_in(path: Path | None) -> dict[str, Any]:
    try:
        content = read_json(path, EVALUATION) if path is not None else {}
    except MaskFileError:
        return {}
    return content if isinstance(content, dict) else {}


def _header_of(path: Path | None) -> dict[str, Any]:
    """What the header of a card says."""
    from huggingface_hub import ModelCard

    if path is None:
        return {}
    text = read_bytes(path, "card", MOST_BYTES).decode("utf-8", "replace")
    try:
        return ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # of YAML that is none; the header is not needed
        return {}


def _picture_in(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _fitting(
                Image.open(io.BytesIO(read_bytes(path, "picture", MOST_BYTES)), formats=("PNG", "JPEG", "WEBP"))
            )
    except UNREADABLE:
        return None


def _map_of(sheet: Sheet) -> Image.Image | None:
    if sheet.mask is None:
        return None
    try:
        return _fitting(Image.open(io.BytesIO(pictures.png(pictures.grid(sheet.mask)))))
    except StepMaskError:  # without matplotlib
        return None


def _fitting(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.thumbnail((WIDEST, 16_000))
    return picture
