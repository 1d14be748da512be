"""Schedulers by the name of a class and a configuration from a file: bounded before they are made, and tried."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

from stepmask.errors import MaskMismatchError, StepMaskError
from stepmask.mask import StepMask
from stepmask.recipe import Recipe
from stepmask.timesteps import start_run, stepped

MOST_STEPS = 100_000
"""A configuration may have been trained on so many steps; tables of that length are made of it."""
MOST_LETTERS = 200
"""So long a text may be in a configuration."""
LARGEST = 1e9
"""Other numbers are smaller, or infinite."""
NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
"""How mask files spell what JSON lacks."""
FAILS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, NotImplementedError, RuntimeError)
"""What a scheduler raises of a configuration that makes no sense."""


def scheduler_of(decision: StepMask | Recipe) -> Any:
    """The scheduler that a mask or a recipe was made for, to set on a pipeline.

    Example:
        >>> pipe.scheduler = stepmask.scheduler_of(mask)

    Raises:
        StepMaskError: It fits every scheduler, so that it says none.
        MaskMismatchError: This version of diffusers cannot make it.
    """
    if decision.scheduler is None:
        raise StepMaskError(f"the {decision.kind} fits every scheduler: keep the one that the pipeline has")
    return make_scheduler(decision.scheduler["class"], decision.scheduler["config"], decision.num_inference_steps)


def make_scheduler(class_name: str, config: Mapping[str, Any], num_inference_steps: int | None = None) -> Any:
    """A scheduler of diffusers; nothing else of diffusers can be named.

    Args:
        class_name: Its class.
        config: Its configuration.
        num_inference_steps: Of the runs that it is for, where it is to be tried.

    Raises:
        MaskMismatchError: There is no such scheduler, or none that a plain loop steps; or the configuration makes none.
        StepMaskError: It makes no run of so many steps.
    """
    class_ = _class(class_name)
    values = {name: NUMBERS.get(v.lower(), v) if isinstance(v, str) else v for name, v in config.items()}
    given = inspect.signature(class_.__init__).parameters
    for name, value in values.items():
        if name in given:
            _check(name, value, given[name].default)
    trained, betas = values.get("num_train_timesteps"), values.get("trained_betas")
    if betas is not None and len(betas) != (trained or 1000):
        raise _cannot(f"trained_betas has {len(betas)} numbers for {trained or 1000} steps")
    try:
        scheduler = class_.from_config(values)
    except FAILS as error:
        raise _cannot(error) from error
    if num_inference_steps is not None:
        start_run(copy.deepcopy(scheduler), num_inference_steps)
        try:
            _try(copy.deepcopy(scheduler), num_inference_steps)
        except FAILS as error:
            if _steps_by_default(class_, num_inference_steps):
                raise _cannot(error) from error
            raise _needs_more(class_name) from error
    return scheduler


def _steps_by_default(class_: Any, num_inference_steps: int) -> bool:
    """Whether a plain loop steps a scheduler as its class configures it."""
    try:
        _try(class_(), num_inference_steps)
    except FAILS:
        return False
    return True


def _class(name: str) -> Any:
    import diffusers

    class_ = getattr(diffusers, name, None)
    known = isinstance(class_, type) and issubclass(class_, diffusers.SchedulerMixin)
    if not known or not hasattr(class_, "from_config"):
        raise MaskMismatchError(
            f"diffusers {diffusers.__version__} has no scheduler {name[:MOST_LETTERS]!r}: update diffusers, or learn "
            "anew"
        )
    step = getattr(class_, "step", None)
    required = [p for p in inspect.signature(step).parameters.values() if p.default is p.empty] if step else []
    if len([p for p in required if p.kind is p.POSITIONAL_OR_KEYWORD]) != len(("self", "output", "timestep", "sample")):
        raise _needs_more(name)
    return class_


def _check(name: str, value: Any, default: Any) -> None:
    """See that a value is of the default's kind, and no larger than any that makes sense."""
    numbers = [value] if not isinstance(value, list | tuple) else value
    if not all(one is None or isinstance(one, bool | int | float | str) for one in numbers):
        raise _cannot(f"{name} is {type(value).__name__}")
    if len(numbers) > MOST_STEPS:
        raise _cannot(f"{name} has {len(numbers)} numbers")
    for one in numbers:
        if isinstance(one, str) and len(one) > MOST_LETTERS:
            raise _cannot(f"{name} is a text of {len(one)} letters")
        most = MOST_STEPS if name == "num_train_timesteps" else LARGEST
        if isinstance(one, int | float) and most < abs(one) < math.inf:
            raise _cannot(f"{name} = {one:.3g}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, int | float):
        fits = is_number or value is None
    elif isinstance(default, str):
        fits = isinstance(value, str)
    else:
        fits = True
    if not fits:
        raise _cannot(f"{name} = {value!r:.80}")


def _try(scheduler: Any, num_inference_steps: int) -> None:
    """Step through a run with next to nothing, as any configuration that makes sense can."""
    import torch

    sample = torch.zeros(1, 2, 2, 2)
    learned = "learned" in str(getattr(scheduler.config, "variance_type", ""))  # half of the channels are the variance
    output = torch.zeros(1, 4, 2, 2) if learned else sample
    start_run(scheduler, num_inference_steps)
    with torch.random.fork_rng([]):
        for timestep in stepped(scheduler):
            scale = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)
            scheduler.step(output, timestep, scale(sample, timestep), return_dict=False)


def _needs_more(name: str) -> StepMaskError:
    return MaskMismatchError(
        f"{name} is not stepped by output, timestep and sample alone, and stepmask makes none of those from a file: "
        "set it on the pipeline yourself, as where the mask was made"
    )


def _cannot(reason: Any) -> StepMaskError:
    said = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
    return MaskMismatchError(f"the scheduler that the mask names cannot be made ({said[:MOST_LETTERS]}): learn anew")
