"""Weights in half precision, in a file of their own."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def write_weights(model: nn.Module, path: Path) -> None:
    """Keep the weights of a model in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in model.state_dict().items()}, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """What `write_weights` has kept, in float32."""
    return {key: value.float() for key, value in load_file(path).items()}
