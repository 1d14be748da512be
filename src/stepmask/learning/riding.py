"""Rides the user's pipeline: the denoiser is gated and every call of it handed to the learner.

The pipeline, its scheduler and its guidance run as they are. Weights are frozen, the model is in eval mode, the
decoder is stubbed; all of it is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.gate import Controller, gated
from stepmask.inspection.call import is_modular
from stepmask.inspection.describe import describe
from stepmask.inspection.inputs import as_batch
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.registry import architecture_of, denoiser_of, denoisers_of
from stepmask.runtime.apply import diffusers_hooks, has_cache_of_diffusers, is_applied
from stepmask.runtime.executor import Executor
from stepmask.runtime.policies import Policy
from stepmask.runtime.position import Position


class Rider(Protocol):
    """What rides along."""

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        """Replaces one denoiser call; `forward` runs the gated model on the call's inputs, any number of times."""
        ...


def first_tensor(denoiser: nn.Module, output: Any) -> Tensor:
    """The part of the denoiser's output that the sampler uses."""
    return architecture_of(denoiser).used_output(denoiser, as_batch(output[0]))


def detached(output: Any) -> Any:
    """The same output without its autograd graph."""
    return tree_map_only(Tensor, torch.Tensor.detach, output)


def check_learnable(pipe: Any) -> None:
    """Refuse what cannot be ridden.

    Raises:
        StepMaskError: A mask is applied to the model.
        UnsupportedModelError: It is offloaded, has a cache of diffusers, or another one takes over in mid-run.
    """
    denoiser, *others = denoisers_of(pipe)
    if others:
        raise UnsupportedModelError(
            f"{type(pipe).__name__} runs two denoisers one after the other, and learning rides one alone: take a "
            "schedule that is not learned, schedules.key_steps(pipe, steps) for example; apply runs it in both"
        )
    if is_applied(denoiser):
        raise StepMaskError("a mask is applied to this model: remove it before learning another")
    if any(_is_offloaded(module) for module in denoiser.modules()):
        raise UnsupportedModelError("the denoiser is offloaded: learn before enabling offload, the mask works after it")
    if has_cache_of_diffusers(denoiser):
        raise UnsupportedModelError(
            "hooks of diffusers carry values of the denoiser from step to step (enable_cache?), so its full run cannot "
            "be learned from: call disable_cache() first"
        )


def _is_offloaded(module: nn.Module) -> bool:
    """By accelerate's hooks, or by diffusers' own of groups."""
    return hasattr(module, "_hf_hook") or any("group_offloading" in name for name in diffusers_hooks(module))


def check_differentiable(pipe: Any) -> None:
    """Refuse layers that are known to let no gradient through, beside others that would: what came back would be wrong.

    Raises:
        UnsupportedModelError: There is one, a quantised layer of torch.
    """
    for name, module in denoiser_of(pipe).named_modules():
        home = type(module).__module__
        if home.startswith("torch.") and ".quantized" in home:
            raise UnsupportedModelError(
                f"{name} is a quantised {type(module).__name__}, which lets no gradient through: learn on the plain "
                "model, the mask works on the quantised one too; or take a schedule, or learning.smoothcache"
            )


def check_run_differentiable(pipe: Any) -> None:
    """Refuse also what is known to let no gradient through from one step to the next.

    Raises:
        UnsupportedModelError: The pipeline is modular, or a layer is a quantised one of torch.
    """
    check_differentiable(pipe)
    if is_modular(pipe):
        raise UnsupportedModelError(
            f"the blocks of a {type(pipe).__name__} switch gradients off, so no error of its images comes back through "
            "them: learn with the standard pipeline of the same denoiser and scheduler, the mask works in both; or use "
            'method="per-step"'
        )


class Ride:
    """What `riding` yields."""

    def __init__(self, decoder_inputs: list[Tensor]) -> None:
        self._decoder_inputs = decoder_inputs

    def latents(self, images: Tensor) -> Tensor:
        """What a call of the pipeline made: the input of its stubbed decoder, or `images` where it has none."""
        return self._decoder_inputs[0].float().cpu() if self._decoder_inputs else images


@contextlib.contextmanager
def riding(pipe: Any, policy: Policy, rider: Rider) -> Iterator[Ride]:
    """Gate the sites with `policy` and the denoiser with `rider` for a while."""
    check_learnable(pipe)
    denoiser = denoiser_of(pipe)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(frozen(denoiser))
        ride = Ride(stack.enter_context(without_decoder(pipe)))
        executor = Executor(denoiser, describe(denoiser), lambda: pipe.scheduler, lambda row: policy)
        stack.callback(executor.remove)
        name = type(denoiser).__name__
        gate = (name, denoiser, lambda compute, args, kwargs: rider(executor.position, compute))
        stack.enter_context(gated([gate]))
        yield ride


def companions(pipe: Any) -> list[tuple[str, nn.Module, Controller]]:
    """Gates for what else may run at every step, a ControlNet for example: it keeps no graph, but runs again.

    The decoder, which learning goes without, is left alone.
    """
    models = {name: model for name, model in getattr(pipe, "components", {}).items() if isinstance(model, nn.Module)}
    return [(name, model, _again) for name, model in models.items() if name != "vae" and model is not denoiser_of(pipe)]


def _again(compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
    return checkpoint(compute, use_reentrant=False) if torch.is_grad_enabled() else compute()


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the weights, eval mode, no gradient checkpointing; all of it is put back."""
    wanted_gradient = [parameter.requires_grad for parameter in model.parameters()]
    training = {module: module.training for module in model.modules()}
    checkpointing = {m: m.gradient_checkpointing for m in model.modules() if hasattr(m, "gradient_checkpointing")}
    try:
        model.requires_grad_(False)
        model.eval()
        for module in checkpointing:
            module.gradient_checkpointing = False
        yield
    finally:
        for parameter, wanted in zip(model.parameters(), wanted_gradient, strict=True):
            parameter.requires_grad_(wanted)
        for module, was in training.items():
            module.training = was
        for module, was in checkpointing.items():
            module.gradient_checkpointing = was
