"""The pruned reference models that come with the laboratory, and how one is read from its weights.

diffusers has no configuration for a U-Net whose layers are as narrow as pruning leaves them. So a file holds weights
alone, and the shapes of the original's layers follow them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import Downsample2D, Upsample2D
from torch import Tensor, nn

from stepmask_lab import reference
from stepmask_lab.reference.conditioning import trainable
from stepmask_lab.reference.half_precision import read_weights

WEIGHTS = Path(__file__).parent / "weights"


def names() -> list[str]:
    """Reference models that there is a pruned one of."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load_pruned(name: str, folder: Path | None = None) -> Any:
    """A reference model pruned and trained on, as its pipeline in float32.

    Args:
        name: Of the reference model.
        folder: With ``NAME.safetensors``; None for those of the laboratory.
    """
    pipe = reference.load(name)
    read(trainable(pipe), (folder or WEIGHTS) / f"{name}.safetensors")
    return pipe


def read(model: nn.Module, path: Path) -> None:
    """Give a model the weights of a file, and its layers their shapes."""
    state = read_weights(path)
    for key, value in state.items():
        owner, _, name = key.rpartition(".")
        _reshape(model.get_submodule(owner), name, value)
    for module in model.modules():
        tell_widths(module)
    model.load_state_dict(state)


def tell_widths(module: nn.Module) -> None:
    """Tell a layer what it knows of its width beside its weights: what resamplers expect, how attention scales."""
    if isinstance(module, Downsample2D | Upsample2D):
        module.channels, module.out_channels = module.conv.in_channels, module.conv.out_channels
    elif isinstance(module, Attention):
        module.inner_dim = module.to_q.out_features
        module.scale = (module.inner_dim // module.heads) ** -0.5  # as fused attention scales by itself


def _reshape(layer: nn.Module, name: str, like: Tensor) -> None:
    """Make a layer's parameter as large as a tensor, and let the layer know."""
    parameter = getattr(layer, name)
    if parameter.shape == like.shape:
        return
    setattr(layer, name, nn.Parameter(torch.empty_like(like)))
    if name != "weight":
        return
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = like.shape[:2]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = like.shape
    elif isinstance(layer, nn.GroupNorm):
        (layer.num_channels,) = like.shape
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(like.shape)
