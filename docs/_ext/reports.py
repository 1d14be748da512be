"""Pages to explore of the results that the repository holds, beside the site's own pages.

``stepmask report`` writes them, into a folder whose files Sphinx copies as they are. What is made is not kept in git.
"""

from __future__ import annotations

from pathlib import Path

RESULTS = {"results": "lab/results", "nested": "lab/results/nested", "shipped": "lab/results/shipped"}
"""Names of the pages, and folders of their results."""


def write_reports(docs: Path) -> None:
    """Write the pages into ``_pages/explore``, those that are older than their results or than what writes them."""
    from stepmask.plugins import results_of
    from stepmask.report import write_report

    root = docs.parent
    for name, source in RESULTS.items():
        folder = docs / "_pages" / "explore" / name
        sources = [
            path
            for part in (source, "src/stepmask", "lab/src/stepmask_lab/pages")
            for path in (root / part).rglob("*.*")
        ]
        page = folder / "index.html"
        if not page.exists() or page.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            folder.mkdir(parents=True, exist_ok=True)
            write_report(results_of(root / source), folder)
