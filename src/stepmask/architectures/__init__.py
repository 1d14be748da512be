"""Model families: each names its sites in one short file; who reads whom is declared or traced.

`describe` finds the family by the model's class, or takes patterns of names for any model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    "describe_for",
    "register",
    "registered_architectures",
]


def describe(model: Any, sites: Patterns | None = None, example_inputs: Mapping[str, Any] | None = None) -> BlockGraph:
    """The block graph of a model: its sites in execution order, and who reads whom.

    With `sites`, any model will do, and this instance has these sites from now on: `learn`, `apply`, `measure_cost`
    and every schedule use them. Who reads whom is found by tracing one forward pass of a copy without values, which
    costs neither memory nor arithmetic.

    Example:
        >>> describe(pipe, sites=["**.resnets.*", "**.attn1", "**.ff", "**.downsamplers.*", "**.upsamplers.*"])
        >>> describe(model, sites=["blocks.*.attn", "blocks.*.mlp"], example_inputs={"x": torch.randn(1, 4, 32, 32)})

    Args:
        model: A diffusers pipeline or a denoiser.
        sites: Patterns of submodule names, perhaps with kinds as a dict; ``*`` stands for one part of a dotted name,
            ``**`` for any number. None takes what the family declares, or what was given before.
        example_inputs: Keyword arguments of one call of the denoiser; needed where no family is registered for its
            class. The first tensor with a batch is taken for the noisy sample.

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


def describe_for(model: Any, names: Iterable[str]) -> BlockGraph:
    """The graph that has sites of these names: what `describe` says, else these sites, where the model has them.

    So a mask whose sites were given to `describe` runs in another process too.
    """
    graph = describe(model)
    names = list(names)
    modules = {name for name, _ in denoiser_of(model).named_modules()}
    if set(names) <= set(graph.names) or not set(names) <= modules:
        return graph
    return describe(model, sites=names)
