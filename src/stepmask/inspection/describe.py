"""describe: the block graph of whatever samples, by its family, by given sites, or by a look at its blocks.

Nothing here changes which sites a later call finds, except `register_sites`, which is there for that. What a call needs
is remembered (`first_step`). Code that needs more than the graph asks for a `Description` once and passes it on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stepmask.errors import StepMaskError, UnknownArchitectureError
from stepmask.graph import BlockGraph
from stepmask.inspection.architecture import Architecture, Given
from stepmask.inspection.first_step import first_inputs
from stepmask.inspection.guess import guessed_sites
from stepmask.inspection.inputs import as_batch
from stepmask.inspection.registry import (
    architecture_of,
    class_architecture_of,
    denoiser_of,
    denoisers_of,
    register_instance,
)
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.inspection.sites import Patterns
from stepmask.inspection.trace import SitesError
from stepmask.inspection.twin import meta_twin
from stepmask.nesting import innermost


@dataclass(frozen=True)
class Description:
    """A denoiser and what was found out about it.

    Attributes:
        denoiser: The model whose submodules are the sites; of a pipeline with two denoisers the first.
        architecture: Says what the denoiser is called with and what a sampler uses of its output.
        graph: The sites in execution order, and which of them read which.
    """

    denoiser: nn.Module
    architecture: Architecture
    graph: BlockGraph

    def used_output(self, output: Any) -> Tensor:
        """The part of the denoiser's output that a sampler uses, (N, C, ...).

        Args:
            output: What a call with ``return_dict=False`` returned: a tuple whose first part are the samples, as a
                batch or as a list.
        """
        return self.architecture.used_output(self.denoiser, as_batch(output[0]))


def describe(
    model: Any,
    sites: Patterns | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
) -> BlockGraph:
    """The block graph of a model: its sites in execution order, and who reads whom. Changes nothing.

    With `sites`, any model will do: who reads whom is found by tracing one forward pass of a copy without values,
    which costs neither memory nor arithmetic. `register_sites` takes the same arguments and makes the answer last, so
    that `learn`, `apply` and every schedule use these sites.

    A pipeline whose denoiser is of no supported class needs no `sites` either: those are looked for among the parts of
    its blocks (attentions, feed-forwards, residual blocks), and what its denoiser is called with is seen by starting a
    run; what the trace refuses is left out.

    Example:
        >>> describe(pipe, sites=["**.resnets.*", "**.attn1", "**.ff", "**.downsamplers.*", "**.upsamplers.*"])
        >>> describe(model, sites=["blocks.*.attn", "blocks.*.mlp"], example_inputs={"x": torch.randn(1, 4, 32, 32)})

    Args:
        model: A diffusers pipeline or a denoiser.
        sites: Patterns of submodule names, perhaps with kinds as a dict; ``*`` stands for one part of a dotted name,
            ``**`` for any number. None takes the registered sites, else those that the family declares, else what
            looks like sites.
        example_inputs: Keyword arguments of one call of the denoiser; needed for a bare denoiser of no supported class.
            The first tensor with a batch is taken for the noisy sample. Without `sites`, such a denoiser is looked at
            anew, whatever was registered.
        call_kwargs: What the pipeline is called with, where its denoiser is of no supported class and its call needs
            more than a prompt: an image, for example. Once given, they are known for this pipeline.

    Returns:
        The graph of B sites.

    Raises:
        UnknownArchitectureError: The denoiser is of no supported class, and nothing that looks like sites was found,
            or it was given without a pipeline.
        UnsupportedModelError: The family is known, but not with this configuration; or the trace cannot prove who
            reads whom.
        StepMaskError: A pattern matches nothing, example inputs are missing, or the pipeline cannot be started.
    """
    return description_of(model, sites, example_inputs, call_kwargs).graph


def register_sites(
    model: Any,
    sites: Patterns | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
) -> BlockGraph:
    """Give this instance sites of its own from now on: `learn`, `apply`, `evaluate` and every schedule use them.

    This is the one function that makes a description last. It holds for the denoiser of the pipeline, for both where
    there are two, in this process, and until it is called again. Other instances of the class are left alone.

    Example:
        >>> register_sites(model, ["blocks.*.attn", "blocks.*.mlp"], example_inputs={"x": torch.randn(1, 4, 32, 32)})
        >>> mask = learn(model, 50, target_macs=0.5, scheduler=scheduler)

    Args:
        model: A diffusers pipeline or a denoiser.
        sites: As `describe` takes them. None registers what `describe` finds, which is of use for a pipeline whose
            denoiser is of no supported class and whose call needs `call_kwargs`.
        example_inputs: As `describe` takes them.
        call_kwargs: As `describe` takes them.

    Returns:
        The graph of the B sites, which `describe(model)` returns from now on.

    Raises:
        UnknownArchitectureError: As `describe` raises it.
        UnsupportedModelError: As `describe` raises it.
        StepMaskError: As `describe` raises it.
    """
    found = description_of(model, sites, example_inputs, call_kwargs)
    for denoiser in denoisers_of(model):
        register_instance(denoiser, found.architecture)
    return found.graph


def description_of(
    model: Any,
    sites: Patterns | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
) -> Description:
    """What `describe` finds out, with the architecture; takes the same arguments and raises the same errors."""
    denoiser = denoiser_of(model)
    is_pipeline = callable(model) and not isinstance(model, nn.Module | SamplerLoop)  # says what it calls it with
    if example_inputs is None and is_pipeline and _is_unknown(denoiser, given_anew=sites is not None):
        return _by_first_call(denoiser, first_inputs(model, call_kwargs), sites)
    if sites is None and example_inputs is not None and _is_unknown(denoiser, given_anew=True):
        return _by_first_call(denoiser, example_inputs, None)
    if sites is None:
        architecture = architecture_of(denoiser)
        return Description(denoiser, architecture, architecture.graph(denoiser))
    return _by_sites(denoiser, sites, example_inputs)


def description_for(model: Any, mask: Any, call_kwargs: Mapping[str, Any] | None = None) -> Description:
    """The description that a mask was made for: the usual one, else that of the sites that the mask names.

    So a mask whose sites were given where it was made runs in another process, where nothing is registered.

    Args:
        model: A diffusers pipeline or a denoiser.
        mask: A `StepMask` or a `Plan`. Where it fits neither description the usual one is returned, and
            `StepMask.check` says what is wrong.
        call_kwargs: As `describe` takes them.
    """
    usual = description_of(model, call_kwargs=call_kwargs)
    names, fingerprint = set(mask.sites), getattr(mask.graph, "fingerprint", mask.graph)
    fits = names <= set(usual.graph.names)
    modules = {name for name, _ in usual.denoiser.named_modules()}
    if (fits and fingerprint in (None, usual.graph.fingerprint)) or not names <= modules:
        return usual
    try:
        given = description_of(model, sites=innermost(mask.sites), call_kwargs=call_kwargs)
    except StepMaskError:
        if fits:
            return usual
        raise
    return usual if fits and fingerprint != given.graph.fingerprint else given


def _is_unknown(denoiser: nn.Module, given_anew: bool) -> bool:
    """Whether no family says what the denoiser is called with, and where its sites are."""
    try:
        return not (class_architecture_of if given_anew else architecture_of)(denoiser).knows(denoiser)
    except UnknownArchitectureError:
        if isinstance(getattr(denoiser, "module", None), nn.Module):  # a wrapper, which the error says
            raise
        return True


def _by_first_call(denoiser: nn.Module, inputs: Mapping[str, Any], sites: Patterns | None) -> Description:
    """Describe a denoiser by these inputs; without patterns, by what looks like a site and can be one."""
    if sites is not None:
        return _by_sites(denoiser, sites, inputs)
    proposed = guessed_sites(meta_twin(denoiser))
    while True:
        try:
            return _by_sites(denoiser, proposed, inputs)
        except SitesError as error:
            proposed = {name: kind for name, kind in proposed.items() if name not in error.sites}
            if not proposed:
                raise


def _by_sites(denoiser: nn.Module, sites: Patterns, example_inputs: Mapping[str, Any] | None) -> Description:
    """Describe a denoiser by given sites."""
    try:
        base = class_architecture_of(denoiser)
    except UnknownArchitectureError:
        base = None
    architecture = Given(type(denoiser).__name__, sites, example_inputs, base)
    return Description(denoiser, architecture, architecture.graph(denoiser))
