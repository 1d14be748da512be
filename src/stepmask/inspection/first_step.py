"""What a pipeline asks of its denoiser at its first step: the true sizes of latents and texts, and how many of them.

Found by starting a run, in which the denoiser computes nothing and which ends where the scheduler would step. Nothing
is left behind: the scheduler is a copy, nothing random but what belongs to the call.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from stepmask.errors import StepMaskError
from stepmask.gate import answered
from stepmask.inspection.inputs import chosen_samples, num_samples
from stepmask.inspection.overrides import quiet, same_processors, without_decoder
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.prompts import is_per_image, without_clashes
from stepmask.inspection.registry import denoiser_of, denoisers_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.inspection.structure import remembered
from stepmask.inspection.twin import Twin, on_a_twin
from stepmask.values import tensors_in

T = TypeVar("T")

OnCall = Callable[[nn.Module, tuple, dict], None]
"""Gets a denoiser and the arguments of its call."""


class FirstStep(NamedTuple):
    """Says what the denoiser is asked for one image."""

    inputs: dict[str, Any] | None
    """Keyword arguments of the first call, for one sample; None where they are not known."""
    forwards: int
    """Denoiser inputs, over all calls."""


def first_step(pipe: Any, call_kwargs: Mapping[str, Any] | None = None) -> FirstStep:
    """The first step of a run.

    For bare denoisers and loops, and where the pipeline cannot be started (conditions are missing, say), there are no
    inputs, and the number of forwards is what the arguments of the call say.
    """
    by_arguments = PipelineCall(pipe).forwards_per_image(call_kwargs)
    if isinstance(pipe, nn.Module | SamplerLoop) or not callable(pipe):
        return FirstStep(None, by_arguments)
    calls, error = _calls(pipe, call_kwargs or {})
    if not calls:
        return FirstStep(None, by_arguments)
    batches = [num_samples([*args, *kwargs.values()]) for args, kwargs in calls]
    forwards = sum(batches) if error is None and all(batches) else by_arguments
    return FirstStep(one_sample(denoiser_of(pipe), *calls[0]), forwards)


def first_inputs(pipe: Any, call_kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keyword arguments of the first call for one sample; tensors of fractions keep only their shapes.

    Raises:
        StepMaskError: The pipeline cannot be started, or calls its denoiser in no known way.
    """
    denoiser = denoiser_of(pipe)
    calls, error = _calls(pipe, call_kwargs or {})
    inputs = one_sample(denoiser, *calls[0]) if calls else None
    if inputs is None:
        reason = f" ({type(error).__name__}: {error})" if error is not None and not calls else ""
        raise StepMaskError(
            f"what {type(pipe).__name__} gives to its {type(denoiser).__name__} could not be seen by starting a run"
            f"{reason}. If its call needs more, give that as call_kwargs={{...}}, or once for all that follows: "
            "stepmask.register_sites(pipe, call_kwargs={...}); else register_sites(pipe, sites=[patterns], "
            "example_inputs={...})"
        )
    return without_fractions(inputs)


def one_sample(denoiser: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any] | None:
    """Keyword arguments of a call for its first sample alone, whatever guidance has made of the batch.

    None where the denoiser's forward has no names for them, or nothing has a batch.
    """
    forward = inspect.signature(type(denoiser).forward)
    kinds = {p.kind: p.name for p in forward.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    bound = forward.bind(denoiser, *args, **kwargs).arguments
    more = bound.pop(kinds.get(inspect.Parameter.VAR_KEYWORD), {})
    named = {name: value for name, value in bound.items() if name not in ("self", "return_dict")} | more
    return None if num_samples(named.values()) is None else chosen_samples(named, [0])


def without_fractions(arguments: T) -> T:
    """Keep the arguments of a call; of tensors of fractions only the shapes, on the meta device."""

    def keep(tensor: Tensor) -> Tensor:
        return tensor.detach().to("meta") if tensor.is_floating_point() else tensor.detach()

    return tree_map_only(Tensor, keep, arguments)


class _Stepped(Exception):
    """A run has come to its scheduler's first step."""


_started_with: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""What a pipeline was started with, where it was: its call may need that again. Callbacks, which may hold it, are not
among it."""


def _calls(pipe: Any, given: Mapping[str, Any]) -> tuple[list[tuple[tuple, dict]], Exception | None]:
    """Arguments of the denoiser's calls in the first step, and why these are not all of them.

    What a call needs is remembered once it was given, for calls that do not say it.
    """
    calls, error = _calls_with(pipe, given)
    known = _started_with.get(pipe, {})
    if calls and given:
        _started_with[pipe] = {name: value for name, value in given.items() if not callable(value)}
    elif not calls and not known.keys() <= given.keys():
        return _calls_with(pipe, {**known, **given})
    return calls, error


def _calls_with(pipe: Any, given: Mapping[str, Any]) -> tuple[list[tuple[tuple, dict]], Exception | None]:
    calls: list[tuple[tuple, dict]] = []

    def stop(*args: Any, **kwargs: Any) -> None:
        raise _Stepped

    first = denoiser_of(pipe)

    def note(denoiser: nn.Module, args: tuple, kwargs: dict) -> None:
        if denoiser is first:
            calls.append((args, kwargs))

    error = _run_on_zeros(pipe, _arguments(pipe, given), note, stop)
    if isinstance(error, _Stepped):
        return calls, None
    if not calls and len(given):  # not everything has its images in front (HiDream): all of them, then
        _run_on_zeros(pipe, _arguments(pipe, given, images="all"), note, stop)
    return calls, error or StepMaskError("the run ended before the scheduler's first step")


def follow(pipe: Any, given: Mapping[str, Any], num_inference_steps: int, on_call: OnCall) -> Exception | None:
    """Run a pipeline to its end while its denoisers compute nothing and answer zeros.

    Args:
        pipe: The pipeline, whose scheduler is a copy meanwhile.
        given: Arguments of its call.
        num_inference_steps: The number of steps.
        on_call: Gets a denoiser and the arguments of its call, at each call.

    Returns:
        What ended the run before its end, if anything has.
    """
    arguments = _arguments(pipe, given) | PipelineCall(pipe).steps(num_inference_steps)
    if PipelineCall(pipe).takes("output_type"):
        arguments["output_type"] = "latent"
    with without_decoder(pipe):
        return _run_on_zeros(pipe, arguments, on_call)


def _run_on_zeros(
    pipe: Any,
    arguments: Mapping[str, Any],
    on_call: OnCall,
    step: Callable[..., Any] | None = None,
) -> Exception | None:
    """Call a pipeline whose denoisers answer zeros; returns what it has raised."""
    denoisers, scheduler = denoisers_of(pipe), pipe.scheduler
    outputs: dict[Any, Any] = {}

    def answer(denoiser: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Zeros, of the shapes that a copy of the denoiser says."""
        on_call(denoiser, args, kwargs)
        tensors = tensors_in((args, kwargs))

        def zeros(tensor: Tensor) -> Tensor:
            return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensors[0].device)

        def traced() -> Any:
            return on_a_twin(denoiser, lambda twin: _called(twin, args, kwargs))

        asked = denoiser, tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors), tuple(kwargs)
        if asked not in outputs:
            outputs[asked] = remembered(denoiser, "output", (args, kwargs), traced)
        return tree_map_only(Tensor, zeros, outputs[asked])

    owners = [pipe, *(part for part in vars(pipe).values() if getattr(part, "scheduler", None) is scheduler)]
    followed = copy.deepcopy(scheduler)
    for owner in owners:  # of a combined pipeline also the one within it
        owner.scheduler = followed
    if step is not None:
        followed.step = step
    try:
        with quiet(pipe), ExitStack() as stack:
            for denoiser in denoisers:
                stack.enter_context(same_processors(denoiser))
                stack.enter_context(answered(denoiser, partial(answer, denoiser)))
            pipe(**arguments)
    except Exception as error:  # whatever a pipeline or a copy may raise: what is known by then has to do
        return error.with_traceback(None)  # it would hold the pipeline
    finally:
        for owner in owners:
            owner.scheduler = scheduler
    return None


def _called(twin: Twin, args: tuple, kwargs: dict) -> Any:
    """What a copy of the denoiser returns, without values."""
    given = twin.inputs({"args": args, "kwargs": kwargs})
    with torch.no_grad(), twin.running():
        return twin.model(*given["args"], **given["kwargs"])


def _arguments(pipe: Any, given: Mapping[str, Any], images: Literal["one", "all"] = "one") -> dict[str, Any]:
    """Arguments of a run of a few steps for one image, or for all that are given."""
    call = PipelineCall(pipe)
    one = {name: value[:1] if images == "one" and is_per_image(name, value) else value for name, value in given.items()}
    one |= {name: 1 for name in one if name == "batch_size" or re.fullmatch(r"num_\w+_per_prompt", name)}
    try:
        drawn = call.drawn(1, torch.Generator().manual_seed(0), given)
    except StepMaskError:
        drawn = {}
    arguments = {**without_clashes(drawn, one), **one, **call.steps(10)}
    if call.takes("generator"):
        arguments["generator"] = torch.Generator().manual_seed(0)
    return arguments
