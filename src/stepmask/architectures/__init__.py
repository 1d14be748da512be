"""Model families: each names its sites in one short file; who reads whom is declared or traced.

`describe` finds the family by the model's class, or takes patterns of names for any model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepmask.architectures._family import Architecture, Given
from stepmask.architectures._registry import (
    architecture_of,
    class_architecture_of,
    denoiser_of,
    denoisers_of,
    describe_as,
    register,
    registered_architectures,
)
from stepmask.architectures._sites import Patterns
from stepmask.errors import UnknownArchitectureError
from stepmask.graph import BlockGraph

__all__ = [
    "Architecture",
    "architecture_of",
    "denoiser_of",
    "denoisers_of",
    "describe",
    "register",
    "registered_architectures",
]


def describe(model: Any, sites: Patterns | None = None, example_inputs: Mapping[str, Any] | None = None) -> BlockGraph:
    """The block graph of a denoiser, as `runtime.describe` has it for pipelines too.

    Args:
        model: A denoiser, or a pipeline with one.
        sites: Patterns of submodule names; None takes what the family declares, or what was given before.
        example_inputs: Keyword arguments of one call of the denoiser; needed where no family is registered for its
            class.

    Raises:
        UnknownArchitectureError: No family is registered for the denoiser's class, and no sites are given.
        UnsupportedModelError: The family is known, but not with this configuration; or the trace cannot prove who
            reads whom.
        StepMaskError: A pattern matches nothing, or example inputs are missing.
    """
    denoiser = denoiser_of(model)
    if sites is not None:
        try:
            base = class_architecture_of(denoiser)
        except UnknownArchitectureError:
            base = None
        family = Given(type(denoiser).__name__, sites, example_inputs, base)
        graph = family.describe(denoiser)
        describe_as(denoiser, family)
        return graph
    return architecture_of(denoiser).describe(denoiser)
