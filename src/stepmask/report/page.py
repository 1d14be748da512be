"""One HTML file of a report: style, scripts, pictures and data within it, nothing loaded from anywhere.

Whatever comes from files stands in the page as JSON, in which no tag can end or begin, and the scripts write it as
text. A content security policy lets these very scripts run and no others, and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from stepmask.errors import StepMaskError
from stepmask.files import write_atomically
from stepmask.report.content import Entry, Report, Study, is_number

PAGE = "index.html"
SCRIPTS = ("dom.js", "words.js", "map.js", "frontier.js", "pictures.js", "main.js")


def write_report(report: Report, folder: str | Path) -> Path:
    """Write the page of a report into a folder that is there; returns the file.

    Raises:
        StepMaskError: The file cannot be written, or there is a trade-off to draw and plotly is not installed.
    """
    path = Path(folder) / PAGE
    write_atomically(path, render(report))
    return path


def render(report: Report) -> str:
    """The text of the page.

    Raises:
        StepMaskError: There is a trade-off to draw and plotly is not installed.
    """
    library = _plotly() if any(study.axes for study in report.studies) else None
    scripts = [*([library] if library else []), "\n".join(map(_part, SCRIPTS))]
    return Template(_part("page.html")).substitute(
        title=html.escape(f"{report.title}, {report.source}"),
        policy=_policy(scripts),
        style=_part("page.css"),
        data=_as_json(_content(report)),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def check_drawable() -> None:
    """Raise where a page with a trade-off could not be made.

    Raises:
        StepMaskError: plotly is not installed.
    """
    if importlib.util.find_spec("plotly") is None:
        raise StepMaskError("the trade-off is drawn by plotly: pip install 'stepmask[report]'")


def _plotly() -> str:
    check_drawable()
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")


def _part(name: str) -> str:
    return files("stepmask.report").joinpath("page", name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """What the page may do: run these scripts and show what it holds."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


def _as_json(content: Any) -> str:
    """JSON that can stand in a script element; null for numbers that JSON lacks."""
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _content(report: Report) -> dict[str, Any]:
    from stepmask import __version__

    studies = [_study(study) for study in report.studies]
    return {"title": report.title, "source": report.source, "version": __version__, "studies": studies}


def _study(study: Study) -> dict[str, Any]:
    return {
        "name": study.name,
        "entries": [_entry(entry) for entry in study.entries],
        "methods": [asdict(method) for method in study.methods],
        "axes": [asdict(axis) for axis in study.axes],
        "slack": study.slack,
        "picture": _uri(study.picture),
        "numPictures": study.num_pictures,
        "facts": list(study.facts),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "method": entry.method,
        "setting": entry.setting,
        "values": entry.values,
        "interval": entry.interval if entry.interval and all(map(is_number, entry.interval)) else None,
        "map": entry.map,
        "picture": _uri(entry.picture),
        "facts": list(entry.facts),
    }


def _uri(png: bytes | None) -> str | None:
    return None if png is None else f"data:image/png;base64,{base64.b64encode(png).decode()}"
