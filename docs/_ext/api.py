"""Pages of the API: what each public package offers, by its ``__all__``; the text comes from the docstrings."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

PACKAGES = {
    "stepmask": "What most programs need.",
    "stepmask.schedules": "Masks from rules that need no learning, and files of other tools.",
    "stepmask.learning": "How masks are learned, and how a way to learn is registered.",
    "stepmask.architectures": "Model families, and how one is registered.",
    "stepmask.inspection": "What a pipeline and its denoiser are.",
    "stepmask.evaluation": "Fidelity and speed of a mask against the full run.",
    "stepmask.optimisation": "Recipes for a budget of work.",
    "stepmask.pictures": "Pictures of masks and images; they need matplotlib (`stepmask[pictures]`).",
    "stepmask.presets": "Published models without weights.",
    "stepmask.plugins": "What other packages add: models, pipelines, metrics; architectures, ways to learn, schedules.",
}
ALSO = {
    "stepmask": (
        "stepmask.runtime.handle.Handle",
        "stepmask.runtime.recipes.RecipeHandle",
        "stepmask.runtime.summary.Summary",
        "stepmask.family.Member",
    ),
    "stepmask.learning": (
        "stepmask.runtime.task.Task",
        "stepmask.learning.checkpoint.Checkpoint",
        "stepmask.learning.effort.Effort",
        "stepmask.learning.processes.Processes",
        "stepmask.runtime.noise.Noise",
    ),
    "stepmask.evaluation": (
        "stepmask.evaluation.speed.Speed",
        "stepmask.evaluation.speed.Times",
        "stepmask.evaluation.speed.Ratio",
    ),
}
"""What public functions hand out without a name of its own in their package."""
HEAD = """\
# Python API

These pages are made from the docstrings. Names that a package does not list are not public, and may change.

| package | what it is for |
| --- | --- |
"""


def pages() -> dict[str, str]:
    """Names of files and their text."""
    top = set(map(id, _members(importlib.import_module("stepmask")).values()))
    made, lines = {}, []
    for name, purpose in PACKAGES.items():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        members = _members(module)
        if name != "stepmask":
            members = {key: value for key, value in members.items() if id(value) not in top}
        if not members:
            continue
        made[f"{name}.md"] = _page(name, module, members)
        lines.append(f"| [`{name}`]({name}.md) | {purpose} |\n")
    toctree = "\n```{toctree}\n:hidden:\n\n" + "\n".join(made) + "\n```\n"
    return {"index.md": HEAD + "".join(lines) + toctree, **made}


def _members(module: ModuleType) -> dict[str, Any]:
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if not isinstance(value, ModuleType)}


def _page(name: str, module: ModuleType, members: dict[str, Any]) -> str:
    parts = {"Functions": [], "Classes": [], "Errors": [], "Data": []}
    for key, value in members.items():
        if inspect.isclass(value):
            kind = "Errors" if issubclass(value, BaseException) else "Classes"
        else:
            kind = "Functions" if callable(value) and hasattr(value, "__name__") else "Data"
        parts[kind].append(key)
    lines = [f"# {name}\n", "```{eval-rst}", f".. currentmodule:: {name}", "", *_introduction(module), "```", ""]
    for title, keys in parts.items():
        if keys:
            lines += [f"## {title}\n"]
            lines += [text for key in keys for text in _entry(title, f"{name}.{key}")]
    if name in ALSO:
        lines += ["## What these hand out\n"]
        lines += [text for key in ALSO[name] for text in _entry("Classes", key)]
    return "\n".join(lines)


def _introduction(module: ModuleType) -> list[str]:
    return (inspect.getdoc(module) or "").splitlines()


def _entry(title: str, name: str) -> list[str]:
    directive = {"Functions": "autofunction", "Errors": "autoexception", "Data": "autodata"}.get(title, "autoclass")
    options = ["   :no-members:"] if title == "Errors" else []
    return ["```{eval-rst}", f".. {directive}:: {name}", *options, "```", ""]
