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
from stepmask_lab.rivals.dip_go.config import FullChainConfig
from stepmask_lab.rivals.ecad.config import GeneticConfig
from stepmask.learning.per_step.config import LearnConfig

if TYPE_CHECKING:
    from stepmask_lab.rivals.calibrated.block_caching import block_caching
    from stepmask_lab.rivals.calibrated.ditfastattn import ditfastattn
    from stepmask_lab.rivals.calibrated.recording import Recording, record
    from stepmask_lab.rivals.calibrated.scale_shift import fit_scale_shift
    from stepmask_lab.rivals.calibrated.smoothcache import smoothcache
    from stepmask.learning.end_to_end.fit import fit_gains
    from stepmask.learning.end_to_end.search import Round
    from stepmask.learning.entry import learn, learn_family
    from stepmask_lab.rivals.dip_go.learner import Iteration
    from stepmask_lab.rivals.ecad.search import Generation
    from stepmask.learning.per_step.learner import LearnProgress

__all__ = [
    "FullChainConfig",
    "Generation",
    "GeneticConfig",
    "GlobalConfig",
    "Iteration",
    "LearnConfig",
    "LearnProgress",
    "Recording",
    "Round",
    "block_caching",
    "ditfastattn",
    "fit_gains",
    "fit_scale_shift",
    "learn",
    "learn_family",
    "record",
    "smoothcache",
]

_WHERE = {
    "learn": "entry",
    "learn_family": "entry",
    "Round": "end_to_end.search",
    "LearnProgress": "per_step.learner",
    "Generation": "genetic.search",
    "Iteration": "full_chain.learner",
    "record": "calibrated.recording",
    "Recording": "calibrated.recording",
    "smoothcache": "calibrated.smoothcache",
    "block_caching": "calibrated.block_caching",
    "ditfastattn": "calibrated.ditfastattn",
    "fit_gains": "end_to_end.fit",
    "fit_scale_shift": "calibrated.scale_shift",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"stepmask.learning.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'stepmask.learning' has no attribute {name!r}")
