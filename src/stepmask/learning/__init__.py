"""Learning masks for frozen models, inside the user's own pipeline. Begin with `entry`.

Five ways to a mask, which know nothing of each other: `end_to_end` selects by the final image, `per_step` learns from
the error of each step, `full_chain` by gradients through the whole run, `genetic` searches by trial, `calibrated`
follows rules by others. What more than one of them needs lies beside them.

Learning imports torch, its options do not: the command line lists them without waiting for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stepmask.learning.end_to_end.config import GlobalConfig
from stepmask.learning.per_step.config import LearnConfig
from stepmask_lab.rivals.dip_go.config import FullChainConfig
from stepmask_lab.rivals.ecad.config import GeneticConfig

if TYPE_CHECKING:
    from stepmask.learning.end_to_end.fit import fit_gains
    from stepmask.learning.entry import learn, learn_family

__all__ = ["FullChainConfig", "GeneticConfig", "GlobalConfig", "LearnConfig", "fit_gains", "learn", "learn_family"]

_WHERE = {"learn": "entry", "learn_family": "entry", "fit_gains": "end_to_end.fit"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"stepmask.learning.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'stepmask.learning' has no attribute {name!r}")
