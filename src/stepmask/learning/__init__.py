"""Learning masks for frozen models, inside the user's own pipeline.

The learner imports torch, its options do not: the command line lists them without waiting for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepmask.learning.config import LearnConfig
from stepmask.learning.global_config import GlobalConfig

if TYPE_CHECKING:
    from stepmask.learning.entry import learn, learn_family
    from stepmask.learning.global_search import Round
    from stepmask.learning.learner import LearnProgress

__all__ = ["GlobalConfig", "LearnConfig", "LearnProgress", "Round", "learn", "learn_family"]

_WHERE = {"learn": "entry", "learn_family": "entry", "Round": "global_search", "LearnProgress": "learner"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"stepmask.learning.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'stepmask.learning' has no attribute {name!r}")
