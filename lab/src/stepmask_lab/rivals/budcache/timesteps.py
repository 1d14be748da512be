"""The second stage of BudCache: the sampler's timesteps, learned under key steps that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.learning.effort import Effort
from stepmask.learning.interception import frozen
from stepmask.mask import EFFORT, StepMask
from stepmask.optimisation.learned_timesteps import learned_timesteps
from stepmask.recipe import Recipe
from stepmask.runtime.given_run import takes_timesteps
from stepmask.runtime.recipes import apply_recipe
from stepmask.runtime.task import Task

NUM_IMAGES, ITERATIONS = 4, 3


def budcache_recipe(
    pipe: Any,
    mask: StepMask,
    *,
    num_images: int = NUM_IMAGES,
    iterations: int = ITERATIONS,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: Any = None,
) -> Recipe:
    """Learn timesteps under a mask, so that its final latents come nearer to the full run's (BudCache, stage two).

    A reconstruction from summaries of the paper: key steps stay as the first stage has found them, and where the
    sampler steps is learned by the final output. How it is learned is ours: by the change of the final latents with
    each timestep, on some images, as `stepmask.optimise` does it; theirs are sigmas, and here they are timesteps, which
    more schedulers take. The first one stays.

    Args:
        pipe: What samples.
        mask: For as many steps, at the timesteps of the scheduler.
        num_images: That timesteps are learned on.
        iterations: Steps of Gauss and Newton; each takes about as many runs as there are steps.
        seed: Of noise and conditions.
        call_kwargs: Arguments for the pipeline's call.
        conditions: Prompts or class numbers.

    Returns:
        The mask with its timesteps. Its provenance has the effort of both stages.

    Raises:
        StepMaskError: The scheduler takes no timesteps.
    """
    task = Task(pipe, mask.num_inference_steps, seed=seed, call_kwargs=call_kwargs, conditions=conditions)
    scheduler = task.pipe.scheduler
    if not takes_timesteps(scheduler) or len(task.whole_timesteps) != mask.num_inference_steps:
        raise StepMaskError(
            f"{type(scheduler).__name__} does not take a timestep for each step, and BudCache's second stage learns "
            "those: leave it out, or take DDIM, DPM-Solver++ or Euler"
        )

    def at(times: Sequence[float]) -> Recipe:
        moved = replace(mask, timesteps=list(times), scores=None)
        return Recipe(num_inference_steps=mask.num_inference_steps, timesteps=times, mask=moved)

    def run(times: Sequence[float]) -> Tensor:
        with apply_recipe(task.pipe, at(times), call_kwargs=task.call_kwargs):
            return task.noise.latents(0, num_images)

    effort, own = Effort(), [float(time) for time in task.whole_timesteps]
    with frozen(task.denoisers), effort.counting(task.denoiser):
        full, whole = task.noise.latents(0, num_images), all(time.is_integer() for time in own)
        recipe = at(learned_timesteps(run, own, full, whole=whole, iterations=iterations))
    facts = effort.facts()
    both = {name: round(facts[name] + mask.provenance.get(name, 0), 3) for name in EFFORT}
    return replace(recipe, provenance={**mask.provenance, "timesteps": "learned", **both})
