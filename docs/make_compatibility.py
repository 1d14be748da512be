"""Writes the tables of docs/reference/compatibility.md from the marks of the tests that hold them.

A test says what it shows with ``@pytest.mark.shows("way of running", apply="bitwise", learn="by runs alone")``, which
costs it nothing. What no test shows is untested. Run ``python docs/make_compatibility.py`` after a mark was added; a
test compares the page with what the marks say. They are read from the source, so that no test has to be imported.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/compatibility.md"
COLUMNS = ("apply", "learn", "compile")
UNTESTED = "untested"

HEAD = """\
# What works with what

The tables are made by `python docs/make_compatibility.py` from the tests that are named in them; do not edit them.
*Bitwise* means the same bits as an independent loop. *Refused* means that a sentence says what to do instead.
*Untested* means that we do not know. Tests that are marked for accelerators run with `make gpu` alone.

"""
FOOT = """
## Pipelines

[Architectures](architectures.md) lists the pipelines that are verified with each class of denoisers, and the kinds of
guidance that were verified with them. [Every pipeline and every scheduler](sweep.md) of diffusers that can be built
small was tried.

## Versions

| | oldest that is allowed | what the results were measured with |
| --- | --- | --- |
| Python | 3.10 | 3.11 |
| torch | 2.6 | 2.13 |
| diffusers | 0.41 | 0.42 |

`constraints.txt` in the repository pins every version of the second column.
"""


class Shown(NamedTuple):
    """Says what one mark says."""

    way: str
    column: str
    outcome: str
    file: str


def marks_of(path: Path) -> Iterator[Shown]:
    """What the tests of a file show."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "shows":
            way, *_ = (ast.literal_eval(argument) for argument in node.args)
            for keyword in node.keywords:
                if keyword.arg not in COLUMNS:
                    raise SystemExit(f"{path}: a mark shows {keyword.arg}, and there are {', '.join(COLUMNS)}")
                yield Shown(way, keyword.arg, ast.literal_eval(keyword.value), str(path.relative_to(ROOT)))


def page() -> str:
    """The whole page."""
    cells: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    files: dict[str, list[str]] = defaultdict(list)
    for folder in ("tests", "lab/tests"):
        for path in sorted((ROOT / folder).rglob("test_*.py")):
            for shown in marks_of(path):
                found, named = cells[shown.way][shown.column], files[shown.way]
                found += [shown.outcome] if shown.outcome not in found else []
                named += [shown.file] if shown.file not in named else []
    lines = [f"| way of running | {' | '.join(COLUMNS)} | tests |", f"|{' --- |' * (len(COLUMNS) + 2)}"]
    for way in sorted(cells, key=str.lower):
        said = [" and ".join(cells[way][column]) or UNTESTED for column in COLUMNS]
        lines.append(f"| {way} | {' | '.join(said)} | {', '.join(f'`{name}`' for name in files[way])} |")
    return HEAD + "\n".join(lines) + "\n" + FOOT


if __name__ == "__main__":
    PAGE.write_text(page())
