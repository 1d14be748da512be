"""Lets a scheduler make the run that a recipe says: so many steps, at these timesteps or sigmas.

The methods of one instance are replaced, so that a copy of the scheduler has them too and acts on itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import partial, wraps
from types import MethodType
from typing import Any, Protocol

import numpy as np
import torch

from stepmask.errors import StepMaskError
from stepmask.recipe import Recipe

BY_GAPS = ("DDIMScheduler", "DDIMParallelScheduler")
"""Schedulers that tell the next timestep by an even gap, which is said to them anew at every step."""

BY_SIGMAS = ("UniPCMultistepScheduler", "DEISMultistepScheduler")
"""Schedulers that step from sigma to sigma; they take no timesteps, and those of a run follow from a table."""

Own = Callable[..., Any]
"""A scheduler's own method."""


class Watcher(Protocol):
    """Takes part in the steps of a scheduler."""

    def stepping(self, scheduler: Any) -> AbstractContextManager[None]:
        """Around a step."""
        ...

    def after_step(self, scheduler: Any, output: Any, sample: Any, following: Any) -> Any:
        """Gets the model's output, the sample and the next sample; returns the next sample."""
        ...


class GivenRun:
    """A scheduler makes the run of a recipe, until `remove`.

    Args:
        scheduler: The scheduler of a pipeline.
        recipe: Its number of steps, timesteps and sigmas count.
        watcher: Takes part in its steps, and may change the samples that they return.

    Raises:
        StepMaskError: The scheduler takes no timesteps or sigmas, or follows another recipe.
    """

    def __init__(self, scheduler: Any, recipe: Recipe, watcher: Watcher | None = None) -> None:
        if follows_recipe(scheduler):
            raise StepMaskError(
                f"the {type(scheduler).__name__} follows another recipe already, perhaps in another pipeline: remove "
                "that first"
            )
        check_takes(scheduler, recipe)
        self._scheduler, self._recipe, self._watcher = scheduler, recipe, watcher
        self._put("set_timesteps", self._set_timesteps)
        if watcher is not None or self._says_gaps:
            self._put("step", self._step)

    @property
    def _says_gaps(self) -> bool:
        return self._recipe.timesteps is not None and type(self._scheduler).__name__ in BY_GAPS

    def _put(self, name: str, instead: Callable[..., Any]) -> None:
        own = getattr(type(self._scheduler), name)

        @wraps(own)  # pipelines look at the signature
        def method(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            return instead(own, scheduler, *args, **kwargs)

        method.of_recipe = True
        setattr(self._scheduler, name, MethodType(method, self._scheduler))

    def remove(self) -> None:
        """Give the scheduler its own methods back."""
        for name in ("set_timesteps", "step"):
            vars(self._scheduler).pop(name, None)

    def _set_timesteps(self, own: Own, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(own).bind(scheduler, *args, **kwargs).arguments
        asked, recipe = given.get("num_inference_steps"), self._recipe
        if asked is None:
            listed = next((given[name] for name in ("sigmas", "timesteps") if given.get(name) is not None), ())
            asked = len(listed)
        if asked != recipe.num_inference_steps:
            raise StepMaskError(
                f"the recipe has {recipe.num_inference_steps} steps and the call asks for {asked}: call with "
                f"num_inference_steps={recipe.num_inference_steps}"
            )
        if recipe.timesteps is None and recipe.sigmas is None:
            own(scheduler, *args, **kwargs)
        else:
            _give(own, scheduler, recipe, {name: given[name] for name in ("device", "mu") if name in given})

    def _step(
        self,
        own: Own,
        scheduler: Any,
        output: Any,
        timestep: Any,
        sample: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        step = partial(_step_to_next, own) if self._says_gaps else own
        if self._watcher is None:
            return step(scheduler, output, timestep, sample, *args, **kwargs)
        with self._watcher.stepping(scheduler):
            made = step(scheduler, output, timestep, sample, *args, **kwargs)
        before = made[0] if isinstance(made, tuple) else made.prev_sample
        after = self._watcher.after_step(scheduler, output, sample, before)
        if after is before:
            return made
        if isinstance(made, tuple):
            return after, *made[1:]
        made.prev_sample = after
        return made


def follows_recipe(scheduler: Any) -> bool:
    """Whether a scheduler, or what it was copied from, makes the run of a recipe."""
    return getattr(vars(scheduler).get("set_timesteps"), "of_recipe", False)


def check_takes(scheduler: Any, recipe: Recipe) -> None:
    """See that a scheduler can be told the timesteps or sigmas of a recipe.

    Raises:
        StepMaskError: It cannot.
    """
    name = type(scheduler).__name__
    parameters = inspect.signature(type(scheduler).set_timesteps).parameters
    if recipe.sigmas is not None and not ("sigmas" in parameters and takes_sigmas(scheduler)):
        raise StepMaskError(f"{name} is not told its sigmas: give the recipe timesteps, or another scheduler")
    if recipe.timesteps is None:
        return
    if not takes_timesteps(scheduler):
        raise StepMaskError(
            f"{name} sets its timesteps itself and takes no others: leave the recipe's out, or choose ddim, ddpm, "
            "dpm++, unipc, euler or a scheduler for flow matching"
        )
    trained, first = scheduler.config.num_train_timesteps, recipe.timesteps[0]
    if first > trained or (first == trained and not takes_sigmas(scheduler)):
        raise StepMaskError(f"the recipe begins at timestep {first:g}, and {name} was trained on {trained}")
    if name in (*BY_GAPS, *BY_SIGMAS, "DDPMScheduler") and not all(float(t).is_integer() for t in recipe.timesteps):
        raise StepMaskError(f"{name} knows whole timesteps alone: round the recipe's")


def takes_sigmas(scheduler: Any) -> bool:
    """Whether a scheduler can be told the sigmas of its run."""
    name = type(scheduler).__name__
    return name == "EulerDiscreteScheduler" or ("FlowMatchEuler" in name and not scheduler.config.invert_sigmas)


def takes_timesteps(scheduler: Any) -> bool:
    """Whether a scheduler can be told the timesteps of its run."""
    parameters = inspect.signature(type(scheduler).set_timesteps).parameters
    if "FlowMatch" in type(scheduler).__name__:
        return takes_sigmas(scheduler)
    name = type(scheduler).__name__
    if name in BY_SIGMAS:
        return not getattr(scheduler.config, "use_flow_sigmas", False) and getattr(scheduler, "solver_p", None) is None
    return name in BY_GAPS or "timesteps" in parameters


def _give(own: Own, scheduler: Any, recipe: Recipe, more: dict[str, Any]) -> None:
    """Start the run of the recipe."""
    timesteps, sigmas = recipe.timesteps, recipe.sigmas
    if "FlowMatch" in type(scheduler).__name__:
        trained = scheduler.config.num_train_timesteps
        sigmas = [t / trained for t in timesteps] if sigmas is None else list(sigmas)
        own(scheduler, sigmas=sigmas, **more)
        # as they are: the scheduler would shift them, which is for the sigmas of its own
        levels = torch.tensor(sigmas, dtype=torch.float32, device=scheduler.timesteps.device)
        scheduler.timesteps = levels * trained
        scheduler.sigmas = torch.cat([levels.to(scheduler.sigmas.device), scheduler.sigmas[-1:]])
    elif sigmas is not None:
        own(scheduler, sigmas=[*sigmas, 0.0] if _wants_last(scheduler) else list(sigmas), **more)
    elif type(scheduler).__name__ in BY_GAPS:
        own(scheduler, recipe.num_inference_steps, **more)
        scheduler.timesteps = torch.tensor([int(t) for t in timesteps], device=scheduler.timesteps.device)
    elif type(scheduler).__name__ in BY_SIGMAS:
        own(scheduler, recipe.num_inference_steps, **more)
        kept = scheduler.alphas_cumprod.cpu()
        sigmas = np.interp(timesteps, np.arange(len(kept)), (((1 - kept) / kept) ** 0.5).numpy())
        scheduler.timesteps = torch.tensor([int(t) for t in timesteps], device=scheduler.timesteps.device)
        scheduler.sigmas = torch.cat([torch.tensor(sigmas, dtype=torch.float32), scheduler.sigmas[-1:]])
    else:
        own(scheduler, timesteps=list(timesteps), **more)


def _wants_last(scheduler: Any) -> bool:
    """Whether the sigmas that a scheduler is told end with the last one, which is 0."""
    return type(scheduler).__name__ == "EulerDiscreteScheduler"


def _step_to_next(own: Own, scheduler: Any, output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
    """A step to the next timestep of the run, which the scheduler takes to be a fixed gap away.

    It finds that gap by dividing the number of timesteps that it was trained on by the number of steps.
    """
    timesteps = scheduler.timesteps.tolist()
    row = timesteps.index(int(timestep))
    following = timesteps[row + 1] if row + 1 < len(timesteps) else -1
    steps = scheduler.num_inference_steps
    scheduler.num_inference_steps = Fraction(scheduler.config.num_train_timesteps, int(timestep) - following)
    try:
        return own(scheduler, output, timestep, *args, **kwargs)
    finally:
        scheduler.num_inference_steps = steps
