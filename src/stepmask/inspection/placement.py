"""Where a model computes and in which dtype, whatever keeps its weights elsewhere, or in another dtype, between calls.

Offloading keeps them on the host, or on no device at all; quantised layers and layerwise casting keep them in fewer
bits than they compute in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

HOOKED = {"_hf_hook", "_diffusers_hook"}
"""What a module has that hooks of accelerate, or of diffusers, are on."""


def diffusers_hooks(module: nn.Module) -> dict[str, Any]:
    """The hooks of diffusers on a module, by name."""
    return getattr(getattr(module, "_diffusers_hook", None), "hooks", {})


def cast_to(module: nn.Module) -> torch.dtype | None:
    """The dtype that layerwise casting of diffusers brings a module's weights to for a call; None where it is off."""
    return getattr(casting_of(module), "compute_dtype", None)


def casting_of(module: nn.Module) -> Any:
    """The hook of layerwise casting on a module, if there is one."""
    return diffusers_hooks(module).get("layerwise_casting")


def is_wide(dtype: Any) -> bool:
    """Whether models compute in it: fractions of 16 bits or more."""
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype that a model computes in: what diffusers says, else the first one of its weights that can be."""
    said = getattr(model, "dtype", None)
    if is_wide(said):
        return said
    found = [*filter(None, map(cast_to, model.modules())), *(weight.dtype for weight in model.parameters())]
    return next(filter(is_wide, found), torch.get_default_dtype())


def device_of(model: nn.Module) -> torch.device:
    """The device that a model computes on: where offloading brings its weights for a call, else where they are."""
    for module in model.modules():
        device = _brought_to(module) if HOOKED & vars(module).keys() else None
        if device is not None:
            return device
    return next(_weights(model)).device


def is_offloaded(module: nn.Module) -> bool:
    """Whether hooks of accelerate or of diffusers bring the weights of a module to the device and away again."""
    return hasattr(module, "_hf_hook") or any("group_offloading" in name for name in diffusers_hooks(module))


def weights_of(model: nn.Module) -> Iterator[Tensor]:
    """The weights of a model; what is on no device between calls is read from where accelerate keeps it."""
    for name, weight in model.named_parameters():
        owner, _, own = name.rpartition(".")
        hooks = _hooks_of_accelerate(model.get_submodule(owner)) if weight.is_meta else []
        kept = [one.weights_map for one in hooks if getattr(one, "weights_map", None) is not None]
        yield torch.as_tensor(kept[0][own]) if kept else weight


def _hooks_of_accelerate(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", [hook]))


def _brought_to(module: nn.Module) -> torch.device | None:
    """Where hooks of accelerate, or diffusers' own of groups, bring the weights of a module for a call."""
    for one in _hooks_of_accelerate(module):
        device = getattr(one, "execution_device", None)
        if device is not None:
            return torch.device(device)
    group = getattr(diffusers_hooks(module).get("group_offloading"), "group", None)
    return getattr(group, "onload_device", None)


def _weights(model: nn.Module) -> Any:
    yield from model.parameters()
    yield from model.buffers()
    yield torch.empty(0)


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a tensor is made of: itself, or what a quantised or a sharded one holds."""
    if hasattr(tensor, "__tensor_flatten__"):
        return [part for name in tensor.__tensor_flatten__()[0] for part in plain_parts(getattr(tensor, name))]
    return [tensor.detach().as_subclass(Tensor)]
