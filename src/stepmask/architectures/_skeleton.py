"""A copy of a model on the meta device: its structure without its weights, hooks and wrappers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

LEFT_BEHIND = ("forward", "_hf_hook", "_compiled_call_impl")
"""Attributes that would run the original."""


def meta_skeleton(model: nn.Module) -> nn.Module:
    """Copy `model` in eval mode with meta tensors; costs no memory, leaves the model alone.

    Gates, offload wrappers and hooks are left behind, so that what is traced is the plain model.
    """
    return _copy(model, {})


def meta_twin(model: nn.Module) -> nn.Module | None:
    """A model of the same class and configuration, on the meta device and in eval mode; None where there is none.

    Other than a copy it has plain weights and plain attention, whatever was done to the model since.
    """
    if not hasattr(type(model), "from_config") or not hasattr(model, "config"):
        return None
    with torch.device("meta"):
        return type(model).from_config(model.config).eval().requires_grad_(False)


def _copy(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    twin = module.__class__.__new__(module.__class__)
    done[id(module)] = twin
    twin.__dict__ = {key: value for key, value in module.__dict__.items() if key not in LEFT_BEHIND}
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            twin.__dict__[name] = OrderedDict()
        elif isinstance(value, Tensor):
            twin.__dict__[name] = _meta(value)
    twin.__dict__["_parameters"] = {
        name: None if value is None else nn.Parameter(_meta(value), requires_grad=False)
        for name, value in module._parameters.items()
    }
    twin.__dict__["_buffers"] = {
        name: None if value is None else _meta(value) for name, value in module._buffers.items()
    }
    twin.__dict__["_modules"] = {
        name: None if child is None else _copy(child, done) for name, child in module._modules.items()
    }
    twin.__dict__["training"] = False
    return twin


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)
