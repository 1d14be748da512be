"""Hands every denoiser call of the user's pipeline to a learner, while the pipeline runs as it is.

Scheduler and guidance are the pipeline's own. Weights are frozen, the model is in eval mode, the decoder is left out;
all of it is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from stepmask.gate import Controller, gated
from stepmask.graph import BlockGraph
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.placement import casting_of
from stepmask.inspection.registry import denoiser_of
from stepmask.learning.refusals import check_learnable
from stepmask.runtime.executor import Executor
from stepmask.runtime.policies import Policy
from stepmask.runtime.position import Position

OnCall = Callable[[Position, Callable[[], Any]], Any]
"""Takes the place of a denoiser call and returns the output that the pipeline gets to see. It is given the position of
the call and a function that runs the gated model on the call's inputs, any number of times."""

CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")
"""Attributes in which diffusers keeps whether a block runs again on the way back, and what runs it."""


def detached(output: Any) -> Any:
    """The same output without its autograd graph."""
    return tree_map_only(Tensor, torch.Tensor.detach, output)


@contextlib.contextmanager
def intercepted(pipe: Any, graph: BlockGraph, policy: Policy, on_call: OnCall) -> Iterator[list[Tensor]]:
    """Let `policy` decide what each site hands out and `on_call` take the place of every denoiser call, for a while.

    Yields a list that holds the input of the decoder in the latest run; empty for pipelines without one.

    Raises:
        StepMaskError: A mask is applied to the model.
        UnsupportedModelError: Learning on it is refused.
    """
    check_learnable(pipe)
    denoiser = denoiser_of(pipe)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(frozen(denoiser))
        decoder_inputs = stack.enter_context(without_decoder(pipe))
        executor = Executor(denoiser, graph, lambda: pipe.scheduler, lambda row: policy, pipe=pipe)
        stack.callback(executor.remove)
        name = type(denoiser).__name__
        gate = (name, denoiser, lambda compute, args, kwargs: on_call(executor.position, compute))
        stack.enter_context(gated([gate]))
        yield decoder_inputs


def companions(pipe: Any) -> list[tuple[str, nn.Module, Controller]]:
    """Gates for what else may run at every step, a ControlNet for example: it keeps no graph, but runs again.

    The decoder, which learning goes without, is left alone.
    """
    models = {name: model for name, model in getattr(pipe, "components", {}).items() if isinstance(model, nn.Module)}
    return [(name, model, _again) for name, model in models.items() if name != "vae" and model is not denoiser_of(pipe)]


def _again(compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
    return checkpoint(compute, use_reentrant=False) if torch.is_grad_enabled() else compute()


@contextlib.contextmanager
def weights_cast(model: nn.Module) -> Iterator[None]:
    """Keep weights under layerwise casting of diffusers in the dtype that they are cast to, until the end.

    What autograd has saved of a call would be cast back with them.
    """
    casting = {module: casting_of(module) for module in model.modules() if casting_of(module) is not None}
    before = {module: hook.storage_dtype for module, hook in casting.items()}
    try:
        for hook in casting.values():
            hook.storage_dtype = hook.compute_dtype
        yield
    finally:
        for module, dtype in before.items():
            casting[module].storage_dtype = dtype
            module.to(dtype)


@contextlib.contextmanager
def frozen(model: nn.Module, checkpointing: bool = False) -> Iterator[None]:
    """No gradients for the weights, eval mode, gradient checkpointing or none; all of it is put back."""
    wanted_gradient = [parameter.requires_grad for parameter in model.parameters()]
    training = {module: module.training for module in model.modules()}
    blocks = [module for module in model.modules() if hasattr(module, CHECKPOINTING[0])]
    before = [{name: vars(block)[name] for name in CHECKPOINTING if name in vars(block)} for block in blocks]
    try:
        model.requires_grad_(False)
        model.eval()
        for block in blocks:
            block.gradient_checkpointing = False
        if checkpointing:
            model.enable_gradient_checkpointing()
        yield
    finally:
        for parameter, wanted in zip(model.parameters(), wanted_gradient, strict=True):
            with torch.inference_mode(parameter.is_inference()):  # those made there may be changed there alone
                parameter.requires_grad_(wanted)
        for module, was in training.items():
            module.training = was
        for block, was in zip(blocks, before, strict=True):
            for name in CHECKPOINTING:
                vars(block).pop(name, None)
            vars(block).update(was)
