"""Rule-based schedules: pure functions from a graph and timesteps to a `StepMask`, one per file.

Each takes a graph and its timesteps, or a pipeline and a number of steps; `_inputs.Inputs` turns the latter into the
former. Schedules that others have published as files are read by `importers`. Those that have to run the model first
are in `stepmask_lab.rivals.calibrated`.
"""

from stepmask.schedules.deepcache import deepcache
from stepmask.schedules.faster_diffusion import faster_diffusion
from stepmask.schedules.fora import fora
from stepmask.schedules.importers import export_smoothcache, import_l2c, import_smoothcache
from stepmask.schedules.key_steps import key_steps
from stepmask.schedules.postdiff import postdiff
from stepmask.schedules.random import random_schedule
from stepmask.schedules.step_skipping import step_skipping

__all__ = [
    "deepcache",
    "export_smoothcache",
    "faster_diffusion",
    "fora",
    "import_l2c",
    "import_smoothcache",
    "key_steps",
    "postdiff",
    "random_schedule",
    "step_skipping",
]
