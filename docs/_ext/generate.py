"""Makes the pages that come from the code: API, command line, configurations, refusals, reports. Sphinx calls it first.

A page is written only where it changed, so that a second build is quick. What is made is not kept in git.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import api
import configurations
import refusals
import reports

import command_line


def write(path: Path, text: str) -> None:
    """Write a page where it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def generate(app: Any, config: Any) -> None:
    """Write all pages, and take away those whose subject is gone."""
    docs = Path(app.srcdir)
    pages = {
        **{docs / "reference" / "api" / name: text for name, text in api.pages().items()},
        **{docs / "reference" / "cli" / name: text for name, text in command_line.pages().items()},
        docs / "reference" / "_configurations.md": configurations.page(),
        docs / "guides" / "_refusals.md": refusals.page(),
    }
    for folder in ("api", "cli"):
        for path in (docs / "reference" / folder).glob("*.md"):
            if path not in pages:
                path.unlink()
    for path, text in pages.items():
        write(path, text)
    reports.write_reports(docs)


def setup(app: Any) -> dict[str, Any]:
    """Of an extension of Sphinx."""
    app.connect("config-inited", generate)
    return {"parallel_read_safe": True, "version": "1"}
