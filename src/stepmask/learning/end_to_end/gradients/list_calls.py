"""Calls whose samples come as lists, made into calls with a batch: of models that take images and texts one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_map, tree_map_only

from stepmask.inspection.inputs import as_batch, first_sample, is_list_of_samples


def come_as_list(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the samples of a call do."""
    return isinstance(first_sample([*args, *kwargs.values()]), list)


Compute = Callable[[tuple, dict[str, Any]], Any]
"""What a gate hands out: computes on these arguments."""


def with_batch(compute: Compute, args: tuple, kwargs: dict[str, Any]) -> tuple[Compute, tuple, dict[str, Any]]:
    """The same call with a tensor (N, longest, ...) and the N lengths in the place of each list of N tensors.

    Returns:
        What computes it, with a tensor (N, ...) in the place of the list that comes out; and its arguments.
    """
    names = {name for name, value in [*enumerate(args), *kwargs.items()] if is_list_of_samples(value)}

    def on_lists(args: tuple, kwargs: dict[str, Any]) -> Any:
        args = tuple(_apart(*value) if place in names else value for place, value in enumerate(args))
        kwargs = {name: _apart(*value) if name in names else value for name, value in kwargs.items()}
        return tree_map(as_batch, compute(args, kwargs), is_leaf=is_list_of_samples)

    together = tuple(_padded(value) if place in names else value for place, value in enumerate(args))
    return on_lists, together, {name: _padded(value) if name in names else value for name, value in kwargs.items()}


def without_batch(output: Any) -> Any:
    """An output with lists of samples in the place of tensors (N, ...)."""
    return tree_map_only(Tensor, lambda tensor: list(tensor.unbind()), output)


def _padded(samples: list[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_sequence(samples, batch_first=True), torch.tensor([len(sample) for sample in samples])


def _apart(padded: Tensor, lengths: Tensor) -> list[Tensor]:
    return [sample[:length] for sample, length in zip(padded, lengths.tolist(), strict=True)]
