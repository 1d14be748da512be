"""Learning masks for frozen models, inside the user's own pipeline.

The learner imports torch, its options do not: the command line lists them without waiting for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepmask.learning.config import LearnConfig

if TYPE_CHECKING:
    from stepmask.learning.learner import LearnProgress, learn

__all__ = ["LearnConfig", "LearnProgress", "learn"]


def __getattr__(name: str) -> Any:
    if name in ("LearnProgress", "learn"):
        from stepmask.learning import learner

        return getattr(learner, name)
    raise AttributeError(f"module 'stepmask.learning' has no attribute {name!r}")
