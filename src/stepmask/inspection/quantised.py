"""Quantised layers: which they are, whoever quantised them, and the plain layers that they stand for.

A quantised layer keeps its weights in fewer bits, packed in a shape or a type of its own, and runs kernels of its
library. Shapes, costs and who reads whom are those of the plain layer, whose sizes every library keeps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepmask.inspection.placement import is_wide

LIBRARIES = ("bitsandbytes", "diffusers.quantizers", "optimum.quanto", "torch.ao", "torchao")
"""Where layers are from that quantise, though their weights may look plain."""


def is_quantised(module: nn.Module) -> bool:
    """Whether a linear layer or a convolution has weights other than plain fractions of 16 bits or more."""
    shape = _shape_of_weight(module)
    if shape is None or _is_from(type(module), *LIBRARIES):
        return shape is not None
    if module._modules:  # an adapter around such a layer
        return False
    weight = module._parameters.get("weight")
    has_its_shape = weight is not None and is_wide(weight.dtype) and tuple(weight.shape) == shape
    return not (has_its_shape and _is_from(type(weight), "torch"))


def plain_layer(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The layer that a quantised one stands for, on the meta device.

    It takes values of any dtype and makes such, as quantised layers do.
    """
    kind, options = _kind(module), {"device": "meta", "dtype": dtype}
    options |= {name: getattr(module, name) for name in (_LINEAR if kind is nn.Linear else _CONVOLUTION)}
    layer = _PLAIN[kind](bias=getattr(module, "bias", None) is not None, **options)
    layer.unpacks = _is_from(type(module), "diffusers.quantizers")
    return layer


def lets_gradients_through(module: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a gradient comes back through a quantised layer, found by trying; also where it cannot be tried."""
    if _is_from(type(module), "torch.ao"):
        return False
    if _kind(module) is nn.Linear:
        x = torch.ones(2, module.in_features, dtype=dtype, device=device, requires_grad=True)
    else:
        sides = [8 + size for size in module.kernel_size]
        x = torch.ones(2, module.in_channels, *sides, dtype=dtype, device=device, requires_grad=True)
    with torch.enable_grad():
        try:
            y = module(x)
        except Exception:  # whatever a library may raise; what it is will be seen in a run
            return True
        try:
            return y.requires_grad and torch.autograd.grad(y.sum(), x)[0].isfinite().all().item()
        except Exception:
            return False


def _shape_of_weight(module: nn.Module) -> tuple[int, ...] | None:
    """The shape of the plain weight; None of modules that are neither linear layers nor convolutions."""
    kind = _kind(module)
    if kind is None:
        return None
    if kind is nn.Linear:
        return module.out_features, module.in_features
    return module.out_channels, module.in_channels // module.groups, *module.kernel_size


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """What a module is, by its class or by the sizes that it names."""
    found = next((kind for kind in _PLAIN if isinstance(module, kind)), None)
    by_sizes = all(isinstance(getattr(module, name, None), int) for name in _LINEAR)
    return nn.Linear if found is None and by_sizes else found


def _is_from(kind: type, *packages: str) -> bool:
    return f"{kind.__module__}.".startswith(tuple(f"{package}." for package in packages))


class _AnyDtype:
    """Layers that run in the dtype of what they are given."""

    unpacks = False
    """Whether each call makes the weights anew, so that autograd keeps them for the way back."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype, copy=self.unpacks), self.bias
        return self._applied(x, weight, None if bias is None else bias.to(x.dtype))

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class _Linear(_AnyDtype, nn.Linear):
    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class _Conv1d(_AnyDtype, nn.Conv1d):
    pass


class _Conv2d(_AnyDtype, nn.Conv2d):
    pass


class _Conv3d(_AnyDtype, nn.Conv3d):
    pass


_PLAIN = {nn.Linear: _Linear, nn.Conv1d: _Conv1d, nn.Conv2d: _Conv2d, nn.Conv3d: _Conv3d}
_LINEAR = ("in_features", "out_features")
_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
