"""Model families: each declares its sites and who reads them in one short file.

`describe` finds the family by the model's class; `probe` finds a graph by tracing and holds the declarations to it.
"""

from __future__ import annotations

from typing import Any

from stepmask.architectures._registry import (
    Architecture,
    architecture_of,
    denoiser_of,
    register,
    registered_architectures,
)
from stepmask.graph import BlockGraph

__all__ = ["Architecture", "architecture_of", "denoiser_of", "describe", "register", "registered_architectures"]


def describe(model: Any) -> BlockGraph:
    """The block graph of a model.

    Args:
        model: A diffusers pipeline or a denoiser.

    Raises:
        UnknownArchitectureError: No family is registered for the denoiser's class.
        UnsupportedModelError: The family is known, but not with this configuration.
    """
    denoiser = denoiser_of(model)
    return architecture_of(denoiser).describe(denoiser)
