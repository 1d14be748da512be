"""Writes the annotated tree of both packages into CONTRIBUTING.md, from the first sentence of each module.

Run ``python docs/make_tree.py`` after adding, moving or rewording a module; a test compares it with what is there.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("src/stepmask", "lab/src/stepmask_lab")
BEGIN, END = "<!-- the tree, made by docs/make_tree.py -->\n", "<!-- its end -->\n"
COLUMN, WIDTH = 30, 118


def tree() -> str:
    """Both packages as a block of text, a folder before what is in it."""
    return "```text\n" + "".join(_folder(ROOT / package, 0, package) for package in PACKAGES) + "```\n"


def _folder(folder: Path, depth: int, name: str) -> str:
    lines = _line(depth, f"{name}/", folder / "__init__.py")
    for path in sorted(folder.glob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            lines += _line(depth + 1, path.name, path)
    for inner in sorted(path for path in folder.iterdir() if (path / "__init__.py").exists()):
        lines += _folder(inner, depth + 1, inner.name)
    return lines


def _line(depth: int, name: str, path: Path) -> str:
    head = f"{'  ' * depth}{name}".ljust(COLUMN)
    head += "" if head.endswith(" ") else "  "
    return (head + _shortened(_first_sentence(path), WIDTH - len(head))).rstrip() + "\n"


def _shortened(words: str, width: int) -> str:
    """As much of a sentence as fits, up to a comma or colon."""
    if len(words) <= width:
        return words
    return re.match(rf".{{0,{width - 2}}}(?=[,;:(])|.{{0,{width - 2}}}(?= )", words)[0].rstrip() + " …"


def _first_sentence(path: Path) -> str:
    words = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    end = re.search(r"(?<!Eq)(?<!Eqs)(?<!al)\.(?= [A-Z`(]|$)", words)
    return words[: end.start()] if end else words


def with_tree(text: str) -> str:
    """CONTRIBUTING.md with the tree of now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + tree() + END + rest.partition(END)[2]


if __name__ == "__main__":
    page = ROOT / "CONTRIBUTING.md"
    page.write_text(with_tree(page.read_text(encoding="utf-8")), encoding="utf-8")
