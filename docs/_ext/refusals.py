"""Every sentence with which the product refuses something, read from its source without running it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import stepmask
from stepmask import errors

SOURCE = Path(stepmask.__file__).parent
GAP = "…"
"""Stands for what is only known when the error is raised."""


class Refusal(NamedTuple):
    """A place that raises an error for the user."""

    error: str
    message: str
    module: str


def found() -> list[Refusal]:
    """All of them, by file and line."""
    return [refusal for path in sorted(SOURCE.rglob("*.py")) for refusal in _of(path)]


def _of(path: Path) -> Iterator[Refusal]:
    names = {name for name in vars(errors) if name.endswith("Error")}
    module = "stepmask." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            if node.exc.func.id in names and node.exc.args:
                message = re.sub(rf"({GAP}\s*)+", f"{GAP} ", _text(node.exc.args[0])).strip()
                message = re.sub(r" ([,.;:)\]])", r"\1", message)
                if len(message.replace(GAP, "").split()) > 3:
                    yield Refusal(node.exc.func.id, message, module.removesuffix(".__init__"))


def _text(node: ast.expr) -> str:
    """The words of a literal; a gap for everything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return GAP


def page() -> str:
    """The sentences by kind of error, each kind with what it means."""
    by_error: dict[str, list[Refusal]] = {}
    for refusal in found():
        by_error.setdefault(refusal.error, []).append(refusal)
    parts = []
    for name in sorted(by_error, key=lambda name: (name == "StepMaskError", name)):
        meaning = inspect.getdoc(getattr(errors, name)).partition("\n")[0]
        rows = "".join(f"| {_cell(one.message)} | {_cell(one.module.removeprefix('stepmask.'))} |\n" for one in _once(by_error[name]))
        parts.append(f"### {name}\n\n{meaning}\n\n| What it says | Raised in |\n| --- | --- |\n{rows}")
    return "\n".join(parts)


def _once(refusals: list[Refusal]) -> list[Refusal]:
    return list({(one.message, one.module): one for one in refusals}.values())


def _cell(text: str) -> str:
    """Text of a table's cell, with nothing in it that Markdown would read."""
    return re.sub(r"([|*_`<>\[\]\\$#~{}])", r"\\\1", " ".join(text.split()))
