"""Rules by others that learn nothing and watch nothing; importing this registers them with `stepmask.schedules`."""

from stepmask_lab.rivals.schedules.faster_diffusion import faster_diffusion
from stepmask_lab.rivals.schedules.postdiff import postdiff
from stepmask_lab.rivals.schedules.random_cells import random_schedule
from stepmask_lab.rivals.schedules.step_skipping import step_skipping

__all__ = ["faster_diffusion", "postdiff", "random_schedule", "step_skipping"]
