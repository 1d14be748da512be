"""What a pipeline hands to its denoiser: the true sizes of latents and texts, found by starting a run.

The run ends before the denoiser computes anything. Nothing is left behind: the scheduler is a copy, nothing random but
what belongs to the call.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from stepmask.architectures import denoiser_of
from stepmask.errors import StepMaskError
from stepmask.runtime.prompts import without_clashes
from stepmask.runtime.sampling import SamplerLoop, first_call, parameters_of, quiet, random_conditions


def denoiser_inputs(pipe: Any, call_kwargs: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Keyword arguments of the denoiser's first call, for one sample.

    Args:
        pipe: A pipeline.
        call_kwargs: What it will be called with.

    Returns:
        None for bare denoisers and loops, and where the pipeline cannot be started: conditions are missing, say.
    """
    if isinstance(pipe, torch.nn.Module | SamplerLoop) or not callable(pipe):
        return None
    scheduler = pipe.scheduler
    pipe.scheduler = copy.deepcopy(scheduler)
    try:
        with quiet(pipe):
            call = first_call(pipe, lambda: pipe(**_arguments(pipe, call_kwargs or {})))
    except Exception:  # the family's own example has to do
        return None
    finally:
        pipe.scheduler = scheduler
    named = None if call is None else _named(denoiser_of(pipe), *call)
    return None if named is None else _first(named)


def _arguments(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """For one image of few steps."""
    one = {name: value[:1] if isinstance(value, list | Tensor) else value for name, value in given.items()}
    try:
        drawn = random_conditions(pipe, 1, torch.Generator().manual_seed(0))
    except StepMaskError:
        drawn = {}
    arguments = {**without_clashes(drawn, one), **one, "num_inference_steps": 2}
    if "generator" in parameters_of(pipe):
        arguments["generator"] = torch.Generator().manual_seed(0)
    return arguments


def _named(denoiser: torch.nn.Module, args: tuple, kwargs: dict) -> dict[str, Any] | None:
    """Arguments of a call by name; None where the denoiser's forward has no names for them."""
    forward = inspect.signature(type(denoiser).forward)
    kinds = {p.kind: p.name for p in forward.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    bound = forward.bind(denoiser, *args, **kwargs).arguments
    more = bound.pop(kinds.get(inspect.Parameter.VAR_KEYWORD), {})
    return {name: value for name, value in bound.items() if name != "self"} | more


def _first(arguments: dict[str, Any]) -> dict[str, Any]:
    """The first sample of a batch, which guidance may have doubled."""
    batch = next(len(value) for value in arguments.values() if isinstance(value, Tensor) and value.dim() > 1)

    def first(tensor: Tensor) -> Tensor:
        return tensor[:1] if tensor.dim() and len(tensor) == batch else tensor

    arguments = {name: value for name, value in arguments.items() if name != "return_dict"}
    return tree_map_only(Tensor, first, arguments)
