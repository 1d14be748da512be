"""Tables of the options of all registered ways to learn, from the metadata of their configurations' fields."""

from __future__ import annotations

import inspect
import re
from typing import Any

from stepmask.learning.configuration import Configuration


def page() -> str:
    """A section for each way to learn that is installed, the default first."""
    from stepmask.learning.registry import learners

    return "\n".join(_section(name, learner) for name, learner in learners().items())


def _section(name: str, learner: Any) -> str:
    kind = learner.configuration
    home = kind.__module__.partition(".")[0]
    where = "" if home == "stepmask" else f" It comes with `{home.replace('_', '-')}`."
    goals = ", ".join(f"`{goal}`" for goal in sorted(learner.goals))
    parts = [
        f"## {name}\n",
        f"`{name}` {_cell(learner.summary)} Its configuration is `{kind.__name__}`.{where}\n",
        f"It can be asked for {goals}.\n",
        _table(kind),
    ]
    for one in kind.options():
        if isinstance(one.type, type) and issubclass(one.type, Configuration):
            purpose = inspect.getdoc(one.type).partition("\n\n")[0]
            parts.append(f"### {one.type.__name__}\n\nThe field `{one.name}`. {_cell(purpose)}\n\n{_table(one.type)}")
    return "\n".join(parts)


def _table(kind: type[Configuration]) -> str:
    rows = "".join(
        f"| `{one.name}` | {_default(one)} | {_cell(one.help + _allowed(one))} |\n" for one in kind.options()
    )
    return f"| option | default | what it does |\n| --- | --- | --- |\n{rows}"


def _allowed(one: Any) -> str:
    """The range with its unit, as a sentence of its own; nothing where every value of the type will do."""
    if not one.range or one.type is bool:
        return ""
    return f" Allowed: {one.range}{f' {one.unit}' if one.unit and not one.may_be_none else ''}."


def _default(one: Any) -> str:
    value = one.default
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Configuration):
        return f"`{type(value).__name__}()`"
    if one.unit == "bytes" and value >= 2**20:
        return f"`{value}` ({value / 2**30:g} GiB)"
    return f"`{value:.3g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return re.sub(r"([|<>_$*])", r"\\\1", " ".join(text.split()))
