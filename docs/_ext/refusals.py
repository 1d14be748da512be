"""Every sentence with which the product refuses something, read from its source without running it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
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
    names = _kinds()
    module = "stepmask." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names and node.args:
            message = re.sub(rf"({GAP}\s*)+", f"{GAP} ", _text(node.args[0])).strip()
            message = re.sub(r" ([,.;:)\]])", r"\1", message)
            if len(message.replace(GAP, "").split()) > 3:
                yield Refusal(names[node.func.id], message, module.removesuffix(".__init__"))


@cache
def _kinds() -> dict[str, str]:
    """Names of errors, each with the public one that it is: a module may have a subclass of its own."""
    kinds = {name: name for name in vars(errors) if name.endswith("Error")}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef) and node.name not in kinds:
                for base in node.bases:
                    if isinstance(base, ast.Name) and base.id in kinds:
                        kinds[node.name] = kinds[base.id]
    return kinds


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _constants() -> dict[str, str]:
    """Texts that modules name in capitals; sentences are put together from them."""
    return {
        node.targets[0].id: node.value.value
        for path in sorted(SOURCE.rglob("*.py"))
        for node in _tree(path).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _text(node: ast.expr) -> str:
    """The words of a literal; a gap for what is only known later."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value)
    return _constants().get(node.id, GAP) if isinstance(node, ast.Name) else GAP


def page() -> str:
    """The sentences by kind of error, each kind with what it means."""
    by_error: dict[str, list[Refusal]] = {}
    for refusal in found():
        by_error.setdefault(refusal.error, []).append(refusal)
    parts = []
    for name in sorted(by_error, key=lambda name: (name == "StepMaskError", name)):
        meaning = inspect.getdoc(getattr(errors, name)).partition("\n")[0]
        once = dict.fromkeys((one.message, one.module.removeprefix("stepmask.")) for one in by_error[name])
        rows = "".join(f"| {_cell(message)} | {_cell(module)} |\n" for message, module in once)
        parts.append(f"## {name}\n\n{meaning}\n\n| What it says | Raised in |\n| --- | --- |\n{rows}")
    return "\n".join(parts)


def _cell(text: str) -> str:
    """Text of a table's cell, with nothing in it that Markdown would read."""
    return re.sub(r"([|*_`<>\[\]\\$#~{}])", r"\\\1", " ".join(text.split()))
