"""describe: the sites of whatever samples, from the family of its class, from patterns, or from a look at its blocks.

A denoiser that no family knows is described within its pipeline: what the first call of a run gives to it stands in
for example inputs, what looks like sites is proposed, and what the trace refuses is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from stepmask.errors import UnknownArchitectureError
from stepmask.graph import BlockGraph
from stepmask.inspection.architecture import Given
from stepmask.inspection.first_call import first_inputs
from stepmask.inspection.guess import guessed_sites
from stepmask.inspection.loop import SamplerLoop
from stepmask.inspection.registry import architecture_of, class_architecture_of, denoiser_of, denoisers_of, describe_as
from stepmask.inspection.sites import Patterns
from stepmask.inspection.trace import SitesError


def describe(
    model: Any,
    sites: Patterns | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
) -> BlockGraph:
    """The block graph of a model: its sites in execution order, and who reads whom.

    With `sites`, any model will do, and this instance has these sites from now on: `learn`, `apply`, `measure_cost`
    and every schedule use them. Who reads whom is found by tracing one forward pass of a copy without values, which
    costs neither memory nor arithmetic.

    A pipeline whose denoiser is of no supported class needs no `sites` either: those are looked for among the parts of
    its blocks (attentions, feed-forwards, residual blocks), and what its denoiser is called with is seen by starting a
    run.

    Example:
        >>> describe(pipe, sites=["**.resnets.*", "**.attn1", "**.ff", "**.downsamplers.*", "**.upsamplers.*"])
        >>> describe(model, sites=["blocks.*.attn", "blocks.*.mlp"], example_inputs={"x": torch.randn(1, 4, 32, 32)})

    Args:
        model: A diffusers pipeline or a denoiser.
        sites: Patterns of submodule names, perhaps with kinds as a dict; ``*`` stands for one part of a dotted name,
            ``**`` for any number. None takes what the family declares, or what was given before.
        example_inputs: Keyword arguments of one call of the denoiser; needed for a bare denoiser of no supported class.
            The first tensor with a batch is taken for the noisy sample.
        call_kwargs: What the pipeline is called with, where its denoiser is of no supported class and its call needs
            more than a prompt: an image, for example.

    Raises:
        UnknownArchitectureError: The denoiser is of no supported class, and nothing that looks like sites was found,
            or it was given without a pipeline.
        UnsupportedModelError: The family is known, but not with this configuration; or the trace cannot prove who
            reads whom.
        StepMaskError: A pattern matches nothing, example inputs are missing, or the pipeline cannot be started.
    """
    denoiser = denoiser_of(model)
    if example_inputs is None and _is_asked(model) and _is_unknown(denoiser, given_anew=sites is not None):
        inputs = first_inputs(model, call_kwargs)
        graph = _described(denoiser, inputs, sites)
        for other in denoisers_of(model)[1:]:
            describe_as(other, architecture_of(denoiser))
        return graph
    return _described_denoiser(denoiser, sites, example_inputs)


def describe_for(model: Any, names: Iterable[str], call_kwargs: Mapping[str, Any] | None = None) -> BlockGraph:
    """The graph that has sites of these names: what `describe` says, else these sites, where the model has them.

    So a mask whose sites were given to `describe` runs in another process too.
    """
    graph = describe(model, call_kwargs=call_kwargs)
    names = list(names)
    modules = {name for name, _ in denoiser_of(model).named_modules()}
    if set(names) <= set(graph.names) or not set(names) <= modules:
        return graph
    return describe(model, sites=names, call_kwargs=call_kwargs)


def _is_asked(model: Any) -> bool:
    """Whether it is a pipeline, which says what it calls its denoiser with."""
    return callable(model) and not isinstance(model, nn.Module | SamplerLoop)


def _is_unknown(denoiser: nn.Module, given_anew: bool) -> bool:
    """Whether no family says what the denoiser is called with."""
    try:
        (class_architecture_of if given_anew else architecture_of)(denoiser)
    except UnknownArchitectureError:
        if isinstance(getattr(denoiser, "module", None), nn.Module):  # a wrapper, which the error says
            raise
        return True
    return False


def _described(denoiser: nn.Module, inputs: Mapping[str, Any], sites: Patterns | None) -> BlockGraph:
    """Describe a denoiser by these inputs; without patterns, by what looks like sites and can be."""
    if sites is not None:
        return _described_denoiser(denoiser, sites, inputs)
    found = guessed_sites(denoiser)
    while True:
        try:
            return _described_denoiser(denoiser, found, inputs)
        except SitesError as error:
            found = {name: kind for name, kind in found.items() if name not in error.sites}
            if not found:
                raise


def _described_denoiser(
    denoiser: nn.Module, sites: Patterns | None, example_inputs: Mapping[str, Any] | None
) -> BlockGraph:
    """The graph of a denoiser by its family, or by these sites, which the instance has from now on."""
    if sites is None:
        return architecture_of(denoiser).describe(denoiser)
    try:
        base = class_architecture_of(denoiser)
    except UnknownArchitectureError:
        base = None
    family = Given(type(denoiser).__name__, sites, example_inputs, base)
    graph = family.describe(denoiser)
    describe_as(denoiser, family)
    return graph
