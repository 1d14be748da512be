"""Takes the least important channels out of a U-Net, by the package torch-pruning. Knows no training and no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch_pruning
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from stepmask.errors import StepMaskError
from stepmask_lab.rivals.diff_pruning.pruned import tell_widths

RATIO = 0.3
"""Of the channels, in the authors' scripts."""
THRESHOLD = 0.05
"""Share of the largest loss below which timesteps do not count, in the authors' scripts."""


def prune(unet: nn.Module, inputs: Mapping[str, Any], ratio: float = RATIO, *, by_gradients: bool = True) -> None:
    """Prune a U-Net in place (Fang et al. 2023, arXiv 2305.10924).

    Taken from the paper and the authors' code: channels that depend on each other go together, the same share in each
    layer, those first whose weights times gradients are least. The last convolution keeps its output. Of channels that
    a norm normalises in groups, each group loses equally many, rounded down: three of every ten are then one of four.

    Args:
        unet: With gradients of `add_gradients`.
        inputs: Arguments of one call, to find what depends on what.
        ratio: Share of the channels.
        by_gradients: False takes channels at random, where only the shape matters.

    Raises:
        StepMaskError: Gradients are wanted and there are none.
    """
    if by_gradients and all(weight.grad is None for weight in unet.parameters()):
        raise StepMaskError("the U-Net has no gradients, by which channels are chosen: call add_gradients before")
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())  # plain operations, which torch-pruning can follow
    heads = {layer: one.heads for one in unet.modules() if isinstance(one, Attention)
             for layer in (one.to_q, one.to_k, one.to_v)}  # fmt: skip
    kinds = torch_pruning.importance
    importance = kinds.GroupTaylorImportance(multivariable=False) if by_gradients else kinds.RandomImportance()
    pruner = torch_pruning.pruner.BasePruner(
        unet,
        dict(inputs),
        importance=importance,
        pruning_ratio=ratio,
        pruning_ratio_dict=_rounded_down(unet, ratio),
        num_heads=heads,
        ignored_layers=[unet.conv_out],
    )
    pruner.step()
    unet.zero_grad(set_to_none=True)
    for module in unet.modules():
        tell_widths(module)


def add_gradients(
    model: nn.Module, scheduler: Any, samples: Tensor, labels: Tensor, threshold: float = THRESHOLD
) -> int:
    """Add up the gradients of the denoising loss from timestep 0 upwards, until it falls below a share of its largest.

    Args:
        model: As `stepmask_lab.reference.conditioning` makes them: of noisy samples, timesteps and labels.
        scheduler: That adds noise; the model predicts the noise.
        samples: (N, C, H, W) clean samples, the same for each timestep, as is their noise.
        labels: (N,).
        threshold: The share.

    Returns:
        How many timesteps counted.
    """
    noise = torch.randn_like(samples)
    largest, count = 0.0, scheduler.config.num_train_timesteps
    for timestep in range(count):
        timesteps = torch.full((len(samples),), timestep)
        loss = mse_loss(model(scheduler.add_noise(samples, noise, timesteps), timesteps, labels), noise)
        loss.backward()
        largest = max(largest, loss.item())
        if loss.item() < threshold * largest:
            return timestep + 1
    return count


def _rounded_down(unet: nn.Module, ratio: float) -> dict[nn.Module, float]:
    """By layer, the share at which each group of a norm loses a whole number of channels, `ratio` of them at most."""
    groups = unet.config.norm_num_groups
    found = {}
    for module in unet.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels % groups == 0:
            size = module.out_channels // groups
            found[module] = int(size * ratio) / size
    return found
