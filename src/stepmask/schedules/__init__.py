"""Rule-based schedules: pure functions from a graph and timesteps to a `StepMask`, one per file.

Each takes a graph and its timesteps, or a pipeline and a number of steps; `_inputs.resolve` turns the latter into
the former.
"""

from stepmask.schedules.deepcache import deepcache
from stepmask.schedules.fora import fora

__all__ = ["deepcache", "fora"]
