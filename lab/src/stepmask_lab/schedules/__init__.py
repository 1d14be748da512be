"""Rules by others that learn nothing and watch nothing; importing this registers them with `stepmask.schedules`."""

from stepmask_lab.schedules.faster_diffusion import faster_diffusion
from stepmask_lab.schedules.postdiff import postdiff, postdiff_recipe
from stepmask_lab.schedules.random_cells import random_schedule
from stepmask_lab.schedules.step_skipping import step_skipping

__all__ = ["faster_diffusion", "postdiff", "postdiff_recipe", "random_schedule", "step_skipping"]
