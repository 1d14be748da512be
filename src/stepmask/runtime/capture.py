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
from stepmask.runtime.sampling import SamplerLoop, parameters_of, quiet, random_conditions


class _Captured(Exception):
    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments


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
    denoiser, scheduler = denoiser_of(pipe), pipe.scheduler
    hook = denoiser.register_forward_pre_hook(_capture, with_kwargs=True, prepend=True)
    pipe.scheduler = copy.deepcopy(scheduler)
    try:
        with quiet(pipe):
            pipe(**_arguments(pipe, call_kwargs or {}))
    except _Captured as found:
        return _first(found.arguments)
    except Exception:  # the family's own example has to do
        return None
    finally:
        hook.remove()
        pipe.scheduler = scheduler
    return None


def _arguments(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """For one image of few steps."""
    one = {name: value[:1] if isinstance(value, list | Tensor) else value for name, value in given.items()}
    try:
        drawn = random_conditions(pipe, 1, torch.Generator().manual_seed(0))
    except StepMaskError:
        drawn = {}
    arguments = {**without_clashes(drawn, one), **one, "num_inference_steps": 2}
    return (
        arguments | {"generator": torch.Generator().manual_seed(0)} if "generator" in parameters_of(pipe) else arguments
    )


def _capture(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
    forward = inspect.signature(type(module).forward)
    if any(p.kind is p.VAR_POSITIONAL for p in forward.parameters.values()):
        raise TypeError("arguments without names")
    bound = forward.bind(module, *args, **kwargs).arguments
    more = next((p.name for p in forward.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    arguments = {name: value for name, value in bound.items() if name not in ("self", more)}
    raise _Captured(arguments | bound.get(more, {}))


def _first(arguments: dict[str, Any]) -> dict[str, Any]:
    """The first sample of a batch, which guidance may have doubled."""
    batch = next(len(value) for value in arguments.values() if isinstance(value, Tensor) and value.dim() > 1)

    def first(tensor: Tensor) -> Tensor:
        return tensor[:1] if tensor.dim() and len(tensor) == batch else tensor

    arguments = {name: value for name, value in arguments.items() if name != "return_dict"}
    return tree_map_only(Tensor, first, arguments)
