"""Losses that several rivals share."""

from __future__ import annotations

from torch import Tensor


def squared_loss(masked: Tensor, original: Tensor) -> Tensor:
    """Mean square of the difference of two outputs (N, ...), as Learning-to-Cache and HarmoniCa take it."""
    return (masked.float() - original.float()).square().mean()
