"""Starts a scheduler's run, or says in words why there is none of so many steps; knows what that says of timesteps."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from stepmask.errors import StepMaskError


def says_timesteps(scheduler: Any, arguments: Collection[str] = ()) -> bool:
    """Whether the number of steps alone says the timesteps of a run.

    Pipelines for flow matching bring sigmas of their own, and shifts that depend on the resolution. Others hand on
    arguments of their call.

    Args:
        scheduler: Of the run.
        arguments: Names of the call's arguments.
    """
    config = getattr(scheduler, "config", {})
    flows = "FlowMatch" in type(scheduler).__name__ or config.get("use_flow_sigmas")
    return not flows and not config.get("use_dynamic_shifting") and not _takes(scheduler) & set(arguments)


def _takes(scheduler: Any) -> set[str]:
    """What a run of the scheduler can be given, beside the number of its steps."""
    return set(inspect.signature(scheduler.set_timesteps).parameters) - {"num_inference_steps"}


def start_run(scheduler: Any, num_inference_steps: int, **options: Any) -> None:
    """``scheduler.set_timesteps``.

    Raises:
        StepMaskError: The scheduler makes no run of so many steps.
    """
    config = getattr(scheduler, "config", {})
    trained = config.get("num_train_timesteps")
    if config.get("use_dynamic_shifting"):  # a run's own shift depends on its resolution, and is known there alone
        options.setdefault("mu", config.get("max_shift", 1.15))
    if num_inference_steps != 2 and "intermediate_timesteps" in _takes(scheduler):
        options.setdefault("intermediate_timesteps", None)  # SCM has one by default, for two steps alone
    if "stage_index" in _takes(scheduler):  # every stage of Helios has a run of its own, of as many steps
        options.setdefault("stage_index", 0)
    try:
        if trained and num_inference_steps > trained:
            raise ValueError("some schedulers break in mid-run only")
        scheduler.set_timesteps(num_inference_steps, **options)
    except (ValueError, IndexError, ArithmeticError, RuntimeError) as error:
        least = 4 if "PNDM" in type(scheduler).__name__ else 1
        most = f", at most {trained}" if trained else ""
        raise StepMaskError(
            f"{type(scheduler).__name__} makes no run of {num_inference_steps} steps: ask for at least {least}{most}"
        ) from error


def stepped(scheduler: Any) -> Any:
    """Timesteps of the run that was started, those at which the scheduler steps: SCM also lists where the run ends."""
    lists_the_end = "intermediate_timesteps" in _takes(scheduler)
    return scheduler.timesteps[:-1] if lists_the_end else scheduler.timesteps
