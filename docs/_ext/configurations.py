"""Tables of the configurations of all registered ways to learn, from the metadata of their fields."""

from __future__ import annotations

from typing import Any


def page() -> str:
    """A section for each way to learn that is installed."""
    try:
        from stepmask.learning import learners
    except ImportError:
        return "\n"
    return "\n".join(_section(name, learner) for name, learner in learners().items())


def _section(name: str, learner: Any) -> str:
    raise NotImplementedError
