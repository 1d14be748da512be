"""Hands every denoiser call of the user's pipeline to a learner, while the pipeline runs as it is.

Scheduler and guidance are the pipeline's own. Weights are frozen, the model is in eval mode, the decoder is left out;
all of it is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from stepmask.gate import Controller, gated
from stepmask.graph import BlockGraph
from stepmask.inspection.overrides import without_decoder
from stepmask.inspection.registry import denoiser_of
from stepmask.learning.refusals import check_learnable
from stepmask.runtime.executor import Executor
from stepmask.runtime.policies import Policy
from stepmask.runtime.position import Position


class OnCall(Protocol):
    """What takes the place of a denoiser call."""

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        """The output that the pipeline gets to see; `forward` runs the gated model on the call's inputs, any time."""
        ...


def detached(output: Any) -> Any:
    """The same output without its autograd graph."""
    return tree_map_only(Tensor, torch.Tensor.detach, output)


class Intercepted:
    """A pipeline whose denoiser calls are intercepted."""

    def __init__(self, decoder_inputs: list[Tensor]) -> None:
        self._decoder_inputs = decoder_inputs

    def latents(self, images: Tensor) -> Tensor:
        """What a call of the pipeline made: the input of its decoder, or `images` where it has none."""
        return self._decoder_inputs[0].float().cpu() if self._decoder_inputs else images


@contextlib.contextmanager
def intercepted(pipe: Any, graph: BlockGraph, policy: Policy, on_call: OnCall) -> Iterator[Intercepted]:
    """Let `policy` decide at every site and `on_call` take the place of every denoiser call, for a while.

    Args:
        pipe: The pipeline.
        graph: The graph of its denoiser.
        policy: Decides what each site hands out.
        on_call: Gets each denoiser call.

    Raises:
        StepMaskError: A mask is applied to the model.
        UnsupportedModelError: Learning on it is refused.
    """
    check_learnable(pipe)
    denoiser = denoiser_of(pipe)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(frozen(denoiser))
        running = Intercepted(stack.enter_context(without_decoder(pipe)))
        executor = Executor(denoiser, graph, lambda: pipe.scheduler, lambda row: policy)
        stack.callback(executor.remove)
        name = type(denoiser).__name__
        gate = (name, denoiser, lambda compute, args, kwargs: on_call(executor.position, compute))
        stack.enter_context(gated([gate]))
        yield running


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
