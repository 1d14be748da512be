"""What autograd keeps of one call of a denoiser for the way back, counted on a copy without values.

Attention is taken as fused kernels take it: they keep queries, keys, values and results, and no matrix of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from stepmask.inspection.describe import Description
from stepmask.inspection.first_step import FirstStep
from stepmask.inspection.inputs import first_sample
from stepmask.inspection.structure import remembered
from stepmask.inspection.twin import Twin, on_a_twin
from stepmask.values import tensors_in


@dataclass(frozen=True)
class GraphBytes:
    """Bytes that are kept for the way back of one step of one image, guidance included.

    Attributes:
        plain: Of the whole graph.
        checkpointed: With diffusers' gradient checkpointing: what blocks are given, what is outside of them, and the
            graph of the largest block, which is made again on the way back; None where the denoiser has none.
    """

    plain: int
    checkpointed: int | None


def graph_bytes(description: Description, step: FirstStep) -> GraphBytes:
    """Count what one step of a run keeps; weights get no gradient.

    Whatever a model's code may raise where no copy of it can be run comes through.
    """
    denoiser = description.denoiser
    return remembered(
        denoiser,
        ("graph bytes", description.architecture.key, step.forwards),
        step.inputs,
        lambda: on_a_twin(denoiser, lambda twin: _count(twin, description, step)),
    )


def can_checkpoint(denoiser: nn.Module) -> bool:
    """Whether diffusers can run blocks of this denoiser again on the way back, in the place of keeping their graphs."""
    return bool(getattr(denoiser, "_supports_gradient_checkpointing", False)) and any(
        hasattr(module, "gradient_checkpointing") for module in denoiser.modules()
    )


def _count(twin: Twin, description: Description, step: FirstStep) -> GraphBytes:
    model, saved = twin.model, _Saved(twin.model.parameters())
    checkpoints = can_checkpoint(model)
    if checkpoints:
        model.enable_gradient_checkpointing(saved.block)
    architecture = description.architecture
    with twin.running():
        inputs = twin.inputs(architecture.example_inputs(model) if step.inputs is None else step.inputs)
        first_sample(inputs.values()).requires_grad_()
        with torch.enable_grad(), saved.counting(), _FusedAttention():
            architecture.run(model, inputs)
    plain, checkpointed = saved.sizes()
    return GraphBytes(step.forwards * plain, step.forwards * checkpointed if checkpoints else None)


class _Saved:
    """Sizes of the storages that are saved, in blocks and outside of them; weights aside."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {_storage(weight) for weight in weights}
        self._outside: dict[int, int] = {}
        self._blocks: list[dict[int, int]] = []
        self._alive: list[Tensor] = []  # a storage that is gone would leave its number to another one

    def counting(self) -> saved_tensors_hooks:
        """Count what is saved for as long as this lasts."""
        return self._counting(self._outside)

    def block(self, module: Callable[..., Any], *args: Any) -> Any:
        """Run a block in the place of what would checkpoint it."""
        for tensor in tensors_in(args):
            self._add(self._outside, tensor)
        self._blocks.append({})
        with self._counting(self._blocks[-1]):
            return module(*args)

    def sizes(self) -> tuple[int, int]:
        """Bytes of all that was saved; and of what is left with every block but the largest made again."""
        inside = [{key: size for key, size in block.items() if key not in self._outside} for block in self._blocks]
        outside = sum(self._outside.values())
        everything = {key: size for block in inside for key, size in block.items()}
        return outside + sum(everything.values()), outside + max((sum(one.values()) for one in inside), default=0)

    def _counting(self, found: dict[int, int]) -> saved_tensors_hooks:
        def pack(tensor: Tensor) -> Tensor:
            self._add(found, tensor)
            return tensor

        return saved_tensors_hooks(pack, lambda tensor: tensor)

    def _add(self, found: dict[int, int], tensor: Tensor) -> None:
        key = _storage(tensor)
        if key not in self._weights:
            self._alive.append(tensor)
            found[key] = tensor.untyped_storage().nbytes()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _FusedAttention(TorchFunctionMode):
    """Attention keeps what fused kernels keep: without values, torch would take products with all their weights."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return _Fused.apply(query, key, value)


class _Fused(torch.autograd.Function):
    """Keeps queries, keys, values and results."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, result)
        return result
