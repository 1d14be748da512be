"""apply: run a mask inside the user's own pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import nn

from stepmask.errors import StepMaskError, UnsupportedModelError
from stepmask.family import MaskFamily
from stepmask.frontier import Frontier
from stepmask.inspection.describe import Description, description_for
from stepmask.inspection.placement import diffusers_hooks
from stepmask.inspection.registry import denoisers_of
from stepmask.inspection.sampler_loop import as_pipeline
from stepmask.liveness import Plan, make_plan
from stepmask.mask import StepMask
from stepmask.recipe import Recipe
from stepmask.runtime.callers import other_callers
from stepmask.runtime.elsewhere import checked_device
from stepmask.runtime.handle import Handle, applied, handle_of
from stepmask.sources import load_one, picked

if TYPE_CHECKING:
    from stepmask.runtime.recipes import RecipeHandle

READ_ATTENTION = frozenset(
    {"StableDiffusionSAGPipeline", "StableDiffusionAttendAndExcitePipeline", "StableDiffusionPix2PixZeroPipeline"}
    | {"LEditsPPPipelineStableDiffusion", "LEditsPPPipelineStableDiffusionXL"}
)
"""Pipelines that put their own processors into the denoiser, and steer by what those store."""


def apply(
    pipe: Any,
    mask: StepMask | Plan | Recipe | MaskFamily | Frontier | str | Path,
    *,
    at: float | None = None,
    scheduler: Any | None = None,
    eliminate_dead: bool = True,
    call_kwargs: Mapping[str, Any] | None = None,
    cache_device: str | torch.device | None = None,
) -> Handle | RecipeHandle:
    """Let a pipeline sample under a mask or a recipe, until ``handle.remove()`` or the end of a ``with`` block.

    The pipeline is called as ever: any batch size, dtype, guidance and start; one instance's submodules are gated,
    nothing else changes. Applying again replaces what was applied. Enable offloading before, not after.

    A row of the mask belongs to whichever denoiser runs at that step. Where a second one takes over in mid-run
    (Wan 2.2), nothing that the first has cached is used by it: it begins as a late start does, with a full row.
    Others of its class that run at every step beside it (Ideogram 4) follow the mask too.

    Args:
        pipe: A diffusers pipeline; or a denoiser, with its `scheduler`.
        mask: What to run: a mask, a plan made from one, a recipe; or a family of masks or a frontier of recipes, from
            which `at` picks one. Or where it lies, as `load` takes it: a file, a folder, or ``user/name`` for a
            repository.
        at: The share of the full run's MACs that a mask of a family may cost, or the evaluations that a recipe of a
            frontier may take.
        scheduler: The scheduler that drives a bare denoiser.
        eliminate_dead: Leave out computations that cannot reach the output; the output is bitwise the same.
        call_kwargs: What the pipeline will be called with, as `describe` takes it; needed only where the denoiser is of
            no supported class and its call needs more than a prompt.
        cache_device: Where cached values wait until they are read: ``"cpu"`` keeps them off an accelerator that has no
            room for them. They are copied while the model computes, and the images are the same.

    Returns:
        The handle: a context manager whose `Handle.remove` undoes all of this.

    Raises:
        UnknownArchitectureError: The denoiser's class is not supported, and it comes without a pipeline, or has
            nothing that looks like sites.
        MaskMismatchError: The mask belongs to another model; at the first step of a run also: to another scheduler
            or number of steps.
        MaskFileError: There is no mask where it is said to lie.
        StepMaskError: The pipeline or its scheduler cannot do what the recipe says; or nothing is picked of several.
    """
    from stepmask.runtime.recipes import apply_recipe, remove_recipe

    pipe, device = as_pipeline(pipe, scheduler), checked_device(cache_device)
    if isinstance(mask, str | Path):
        mask = load_one(mask, at=at)
    elif at is not None or isinstance(mask, MaskFamily | Frontier):
        mask = picked(mask, at)
    if not isinstance(mask, StepMask | Plan | Recipe):
        raise StepMaskError(
            "apply needs a StepMask, a Plan, a Recipe, a MaskFamily or a Frontier, or where one lies, got "
            f"{type(mask).__name__}"
        )
    remove_recipe(pipe)
    if isinstance(mask, Recipe):
        options = {"eliminate_dead": eliminate_dead, "call_kwargs": call_kwargs, "cache_device": cache_device}
        return apply_recipe(pipe, mask, **options)
    description = description_for(pipe, mask, call_kwargs)
    if isinstance(mask, Plan):
        mask.mask.check(graph=description.graph)
        return apply_plan(pipe, mask, description, checked=True, cache_device=device)
    plan = make_plan(mask, description.graph, eliminate_dead=eliminate_dead)
    return apply_plan(pipe, plan, description, checked=True, cache_device=device)


def apply_plan(
    pipe: Any,
    plan: Plan,
    description: Description,
    checked: bool = False,
    cache_device: torch.device | None = None,
) -> Handle:
    """`apply` for code that has described the pipeline already.

    Args:
        pipe: A pipeline, or a `SamplerLoop`.
        plan: What to run.
        description: What is known of the pipeline's denoiser. Which values the model writes into is taken from here,
            not from the plan's graph, since that may have changed after the plan was made.
        checked: Whether a run that ends in what are no finite numbers raises.
        cache_device: Where cached values wait until they are read; None leaves them where they were computed.

    Raises:
        UnsupportedModelError: The pipeline has two denoisers that differ in their blocks, or something has wrapped a
            module of it.
    """
    denoisers = denoisers_of(pipe)
    check_reads_no_attention(pipe)
    _check_alike(pipe, denoisers, description)
    if other_callers(pipe):
        raise StepMaskError(
            f"cannot apply a mask while another thread samples with the {type(pipe).__name__}: its images would be "
            "neither full nor masked; let that call end first"
        )
    for denoiser in denoisers:
        before = handle_of(denoiser)
        if before is not None:
            before._check_idle("apply")
            if before._entered:
                warnings.warn(
                    "apply within the block of another apply replaces its mask for good: after the inner block nothing "
                    "is applied; leave the outer one first",
                    stacklevel=3,
                )
            before.remove()
    if description.graph.names != plan.sites:
        known = set(plan.sites) <= set(description.graph.names)
        graph = plan.graph.rewriting(description.graph) if known else plan.graph
        description = replace(description, graph=graph)
    handle = Handle(pipe, plan, description, checked, cache_device)
    for denoiser in denoisers:
        applied[denoiser] = ref(handle)
    return handle


def check_reads_no_attention(pipe: Any) -> None:
    """Refuse a pipeline that needs what every block attends to.

    Raises:
        UnsupportedModelError: It does.
    """
    if type(pipe).__name__ in READ_ATTENTION:
        raise UnsupportedModelError(
            f"{type(pipe).__name__} reads the attention of blocks at every step, and what a mask leaves out attends to "
            "nothing: use another pipeline of the same parts, such as StableDiffusionPipeline(**pipe.components)"
        )


def _check_alike(pipe: Any, denoisers: tuple[nn.Module, ...], description: Description) -> None:
    """See that one mask can say what each of several denoisers does."""
    for other in denoisers[1:]:
        alike = type(other) is type(denoisers[0])
        if not alike or description.architecture.graph(other).fingerprint != description.graph.fingerprint:
            raise UnsupportedModelError(
                f"the two denoisers of {type(pipe).__name__} differ in their blocks, so one mask cannot say what both "
                "do: give apply a pipeline with one of them"
            )


def remove(pipe: Any) -> None:
    """Remove the mask or recipe that is applied to a pipeline, or to a denoiser, whoever holds its handle.

    None is fine too.

    Raises:
        UnsupportedModelError: Something else has wrapped a gated module; undo that, then call again.
    """
    from stepmask.runtime.recipes import remove_recipe

    remove_recipe(pipe)
    for denoiser in denoisers_of(pipe):
        handle = handle_of(denoiser)
        if handle is not None:
            handle.remove()


def is_applied(denoiser: nn.Module) -> bool:
    """Whether a mask is applied to this denoiser now, or a recipe that changes more than the run of its scheduler."""
    from stepmask.runtime.recipes import recipe_on

    recipe = recipe_on(denoiser)
    return handle_of(denoiser) is not None or (recipe is not None and recipe.changes_calls)


def has_cache_of_diffusers(denoiser: nn.Module) -> bool:
    """Whether hooks of diffusers carry values of this denoiser from step to step, as ``enable_cache`` has it."""
    return any(hook._is_stateful for module in denoiser.modules() for hook in diffusers_hooks(module).values())
