"""What the documentation says is what the code and the repository hold; the site itself is built by ``make docs``."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("reference/api/", "reference/cli/")
"""Pages under docs/ that are only there when the site has been built."""
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PAGES = [page for page in PAGES if not str(page.relative_to(ROOT)).startswith(("docs/_build", "docs/reference/api"))]
PAGES = [page for page in PAGES if "docs/reference/cli" not in str(page) and not page.name.startswith("_")]


def test_the_table_of_architectures_is_up_to_date():
    made = runpy.run_path(str(DOCS / "make_architectures.py"))
    assert made["families"]() in (DOCS / "reference" / "architectures.md").read_text(encoding="utf-8"), (
        "run python docs/make_architectures.py"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "#")):
            continue
        path, _, heading = target.partition("#")
        there = page.parent / path
        if there.resolve().is_relative_to(DOCS) and str(there.resolve().relative_to(DOCS)).startswith(MADE):
            continue
        assert there.exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"
        if heading and there.suffix == ".md":
            assert heading in headings(there.read_text(encoding="utf-8")), f"{target} names no heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|lab|tests|docs|examples)/[\w./*-]+)`", text)
    missing = [name for name in named if not list(ROOT.glob(name.rstrip("/"))) and "_build" not in name]
    assert not missing, f"{page.relative_to(ROOT)} names {missing}"


def test_the_readme_is_short_and_its_table_is_that_of_the_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    results = (ROOT / "lab" / "results" / "results.md").read_text(encoding="utf-8")
    table = text.partition("<!-- the small table -->\n")[2].partition("<!-- its end -->")[0].splitlines()
    assert len(table) > 4
    for row in table:
        assert f"\n{row}\n" in results, f"{row} is not in lab/results/results.md"


def test_the_refusals_that_are_explained_are_in_the_code(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    import refusals

    try:
        sentences = [refusal.message for refusal in refusals.found()]
    finally:
        sys.modules.pop("refusals", None)
    text = (DOCS / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.split(r"^## ", text, flags=re.MULTILINE)
    explained = [
        quoted
        for part in tables
        if part.startswith(("Refusals", "Files"))
        for quoted in re.findall(r"^\| `([^`]+)` \|", part, flags=re.MULTILINE)
    ]
    assert len(explained) > 20
    assert [quoted for quoted in explained if not any(quoted in sentence for sentence in sentences)] == []


def without_code(text: str) -> str:
    """A page without its blocks of code and its code in a line."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub and the site make them, and those that the page names itself."""
    found = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}
    return anchors | set(re.findall(r"^\(([\w-]+)\)=$", text, flags=re.MULTILINE))
