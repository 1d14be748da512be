"""Example inputs for one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from stepmask.inspection.placement import device_of, dtype_of


def noise(model: nn.Module, batch_size: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random tensors ``(batch_size, *shape)`` by name, on the model's device and in its dtype; and ``timestep``."""
    options = {"device": device_of(model), "dtype": dtype_of(model)}
    inputs: dict[str, Any] = {name: torch.randn(batch_size, *shape, **options) for name, shape in shapes.items()}
    return inputs | {"timestep": torch.full((batch_size,), 500, device=options["device"])}


def repeated(inputs: Mapping[str, Any], batch_size: int, device: torch.device) -> dict[str, Any]:
    """Fit inputs to another batch size and device: what has the batch size of the sample is repeated or cut."""
    given = num_samples(inputs.values())

    def fit(tensor: Tensor) -> Tensor:
        if tensor.is_meta and device.type != "meta":
            tensor = torch.zeros_like(tensor, device=device)
        return tensor.to(device)

    return chosen_samples(tree_map_only(Tensor, fit, dict(inputs)), [i % given for i in range(batch_size)])


def num_samples(values: Iterable[Any]) -> int | None:
    """Count the samples in a call: the batch size of the first tensor that has one, or the length of a list."""
    sample = first_sample(values)
    return None if sample is None else len(sample)


def first_sample(values: Iterable[Any]) -> Tensor | list[Any] | None:
    """The first tensor that has a batch, or the first list of samples."""
    return next((v for v in values if is_list_of_samples(v) or (isinstance(v, Tensor) and v.dim() > 1)), None)


def chosen_samples(inputs: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """Pick samples out of the arguments of a call; a sample may be picked several times.

    What has the batch size of the sample in front has the samples; where they come as a list, other lists too.
    """
    sample, numbers = first_sample(inputs.values()), list(numbers)
    count = len(sample)

    def chosen(value: Tensor) -> Tensor:
        rows = rows_per_sample(value, sample)
        return value.unflatten(0, (count, rows))[numbers].flatten(0, 1) if rows else value

    def of(value: Any) -> Any:
        if isinstance(sample, list) and isinstance(value, list) and len(value) == count:
            return [value[number] for number in numbers]
        return tree_map_only(Tensor, chosen, value)

    return {name: of(value) for name, value in inputs.items()}


def rows_per_sample(value: Tensor, sample: Tensor | list[Any]) -> int:
    """Count the rows of a tensor that belong to one sample of a call; 0 where it belongs to the call as a whole.

    Beside a video (samples, channels, frames, height, width), some have a row for each frame (texts of AnimateDiff).
    """
    if value.dim() == 0:
        return 0
    frames = sample.shape[2] if isinstance(sample, Tensor) and sample.dim() == 5 else 1
    of_frames = value.dim() > 1 and len(value) == len(sample) * frames
    return 1 if len(value) == len(sample) else frames * of_frames


def as_batch(output: Any) -> Any:
    """Return what a model made as one tensor, where the samples come as a list."""
    return torch.stack(output) if is_list_of_samples(output) else output


def is_list_of_samples(value: Any) -> bool:
    """Whether it is a list of samples: tensors without a batch, or lists of the pictures that each is made from."""
    if not isinstance(value, list) or not value:
        return False
    return all(one.dim() > 1 if isinstance(one, Tensor) else is_list_of_samples(one) for one in value)
