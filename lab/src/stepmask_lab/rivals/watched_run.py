"""One run of a pipeline on noise that learning draws, watched at every site: for rules that look before they decide."""

from __future__ import annotations

from typing import Any

from stepmask.learning.effort import Effort
from stepmask.learning.interception import OnCall, intercepted
from stepmask.runtime.policies import Policy
from stepmask.runtime.task import Task, check_whole


class WatchedRun:
    """One run of a task's pipeline on noise that learning draws, with whatever watches it.

    Args:
        task: The pipeline, its steps, conditions and seed.
        num_images: Number of images in the batch.
    """

    def __init__(self, task: Task, num_images: int) -> None:
        check_whole("num_images", num_images, 1)
        self.task, self.effort, self._num_images = task, Effort(), num_images
        self.timesteps: tuple[float, ...] = ()

    def __call__(self, policy: Policy, on_call: OnCall) -> None:
        """Run the pipeline once."""
        task = self.task
        with self.effort.counting(task.denoiser), intercepted(task.pipe, task.graph, policy, on_call):
            task.noise.images(0, self._num_images)
        self.timesteps = tuple(float(timestep) for timestep in task.pipe.scheduler.timesteps)

    def facts(self) -> dict[str, Any]:
        """What goes into the provenance of masks: images, seeds, denoiser calls, seconds."""
        task, count = self.task, self._num_images
        return {"num_images": count, **task.facts(task.noise.seeds(0, count)), **self.effort.facts()}
