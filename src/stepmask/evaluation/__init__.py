"""Measures what a mask costs in fidelity and what it saves, against the full run from the same noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stepmask.cost import BATCH_SIZE
from stepmask.errors import StepMaskError
from stepmask.evaluation.conditions import Conditions
from stepmask.evaluation.converged import Converged, converged, converged_run
from stepmask.evaluation.fidelity import Spread, psnr_per_image, ssim_per_image
from stepmask.evaluation.result import FULL_RUN, Evaluation, circumstances
from stepmask.evaluation.sampler import Progress, Sampler, sample_pairs
from stepmask.inspection.overrides import unchecked
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import as_pipeline
from stepmask.liveness import Plan, make_plan
from stepmask.mask import StepMask
from stepmask.recipe import Recipe
from stepmask.runtime.apply import has_cache_of_diffusers, is_applied
from stepmask.runtime.elsewhere import checked_device
from stepmask.runtime.task import Task

__all__ = [
    "Converged", "Evaluation", "Spread", "converged", "evaluate", "evaluation_seeds", "psnr_per_image", "sampler_for",
    "ssim_per_image",
]  # fmt: skip

FIRST_SEED = 10_000


def evaluate(
    pipe: Any,
    mask_or_plan: StepMask | Plan | Recipe,
    *,
    seeds: int | Iterable[int] = 16,
    num_inference_steps: int | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
    scheduler: Any | None = None,
    speed: bool = True,
    speed_pairs: int = 3,
    reference: Tensor | Literal["converged"] | None = None,
    cache_device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Sample with and without a mask or recipe from the same noise, and compare pictures, MACs and times.

    Every image has a seed of its own, so it does not depend on the batch that it is made in; class-conditional
    pipelines get labels from a fixed generator.

    Args:
        pipe: A diffusers pipeline; or a denoiser, with its `scheduler`.
        mask_or_plan: The mask, or a plan that was made of it; or a recipe.
        seeds: One seed per image, or the number of images, whose seeds then begin at 10000. Learning must not have
            seen any of them.
        num_inference_steps: The number of steps. The default is what the mask was made for.
        call_kwargs: Whatever else the pipeline's call needs; lists as long as the seeds hold one value per image.
            Guidance has the strength that the mask was learned with unless it is given here.
        conditions: Prompts or class numbers, or a text file with one per line. They are repeated as often as needed.
            The default is random classes, or 200 varied prompts.
        batch_size: The number of images per call, also when speed is measured.
        scheduler: The scheduler that drives a bare denoiser.
        speed: Whether to measure the speed-up. Full and masked runs are made in turns, after a warm-up.
        speed_pairs: The smallest number of pairs of runs that speed is measured on.
        reference: (N, C, H, W) images of the full run from an earlier evaluation with the same seeds
            (``evaluation.full``), so that several masks share one full run. With "converged" images are compared
            with the run of so many steps that more of them change nothing.
        cache_device: Where cached values wait until they are read, as `stepmask.apply` takes it.
        progress: Called after every run with the number of runs done and to do.

    Raises:
        StepMaskError: Seeds that learning has seen, a reference of another size, conditions that are missing, a mask
            that is applied already, or a cache of diffusers in what should be the full run.
        MaskMismatchError: The mask belongs to another model, scheduler or number of steps.
    """
    if not all(isinstance(count, int) and count >= 1 for count in (batch_size, speed_pairs)):
        raise StepMaskError(
            f"batch_size and speed_pairs must be whole numbers of at least 1, got {batch_size!r} and {speed_pairs!r}"
        )
    pipe = as_pipeline(pipe, scheduler)
    sampler, seeds = sampler_for(pipe, mask_or_plan, seeds, num_inference_steps, call_kwargs, conditions, cache_device)
    against = FULL_RUN
    if isinstance(reference, str):
        if reference != "converged":
            raise StepMaskError(f'reference is a tensor of images, or "converged", got {reference!r}')
        with unchecked(pipe):
            found = converged_run(sampler, seeds, batch_size)
        reference, against = found.images, f"the converged run ({found.num_inference_steps} steps)"
    if reference is not None and len(reference) != len(seeds):
        raise StepMaskError(f"reference has {len(reference)} images for {len(seeds)} seeds: give one image per seed")
    if (reference is None or speed) and has_cache_of_diffusers(denoiser_of(pipe)):
        raise StepMaskError(
            "hooks of diffusers carry values of the denoiser from step to step (enable_cache?), so what runs without "
            "the mask is no full run: call disable_cache() first, or give reference= and speed=False"
        )
    options = {"reference": reference, "timed_pairs": speed_pairs if speed else 0, "progress": progress}
    with unchecked(pipe):
        pairs = sample_pairs(sampler, seeds, batch_size, **options)
    plan, work = sampler.ran or sampler.plan, sampler.work()
    return Evaluation.of(
        pairs,
        batch_size if speed else None,
        **circumstances(pipe, sampler.task.call_kwargs),
        num_inference_steps=sampler.task.num_inference_steps,
        rows=plan.num_rows,
        seeds=tuple(seeds),
        macs_fraction=work.fraction,
        macs_per_image=work.cost,
        full_macs_per_image=work.full_cost,
        evaluations=work.evaluations,
        against=against,
        cells=plan.cells,
        peak_cache_bytes=sampler.peak_cache_bytes,
        prompts=sampler.conditions.prompts(),
    )


def sampler_for(
    pipe: Any,
    mask_or_plan: StepMask | Plan | Recipe,
    seeds: int | Iterable[int] = 16,
    num_inference_steps: int | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    cache_device: str | torch.device | None = None,
) -> tuple[Sampler, list[int]]:
    """Return what samples with and without a mask, and the seeds to give it. The arguments are those of `evaluate`."""
    if is_applied(denoiser_of(pipe)):
        raise StepMaskError("a mask is applied to this model, so there is no full run to compare with: remove it first")
    if not isinstance(mask_or_plan, StepMask | Plan | Recipe):
        raise StepMaskError(f"expected a StepMask, a Plan or a Recipe, got {type(mask_or_plan).__name__}")
    device = checked_device(cache_device)
    recipe = mask_or_plan if isinstance(mask_or_plan, Recipe) else None
    mask = mask_or_plan if isinstance(mask_or_plan, StepMask) else mask_or_plan.mask
    made = mask_or_plan if recipe is not None else mask
    seeds, record = evaluation_seeds(seeds, *(one for one in (mask, recipe) if one is not None)), made.provenance
    call, arguments = PipelineCall(pipe), dict(call_kwargs or {})
    if record.get("guidance_scale") is not None and call.takes("guidance_scale"):
        arguments.setdefault("guidance_scale", record["guidance_scale"])
    steps = num_inference_steps or made.num_inference_steps
    listed = call.listed(conditions).items()
    arguments = {name: [values[i % len(values)] for i in range(len(seeds))] for name, values in listed} | arguments
    task = Task(pipe, steps, call_kwargs=arguments, mask=mask if recipe is not None else mask_or_plan)
    if mask is None:
        mask = task.mask(np.ones(task.shape, bool))
    mask.check(graph=task.graph)
    plan = mask_or_plan if isinstance(mask_or_plan, Plan) else make_plan(mask, task.graph)
    given = Conditions(task.pipe, task.call_kwargs, len(seeds))
    return Sampler(task, plan, given, recipe=recipe, cache_device=device), seeds


def evaluation_seeds(seeds: int | Iterable[int], *made: StepMask | Recipe) -> list[int]:
    """Return the seeds as a list, after checking that learning has not seen them.

    Args:
        seeds: The seeds, or how many, counted from 10000.
        made: Masks and recipes, whose provenance says under ``noise_seeds`` the first and last seed that they were
            learned on.

    Raises:
        StepMaskError: There are none, or learning has seen one of them.
    """
    if isinstance(seeds, int):
        seeds = range(FIRST_SEED, FIRST_SEED + seeds)
    seeds = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    if not seeds:
        raise StepMaskError("evaluation needs at least one seed")
    strange = [seed for seed in seeds if not isinstance(seed, Integral) or not 0 <= seed < 2**63]
    if strange:
        raise StepMaskError(f"seeds are whole numbers from 0 to 2^63, or how many there shall be, got {strange[0]!r}")
    seeds = [int(seed) for seed in seeds]
    if len(set(seeds)) < len(seeds):
        raise StepMaskError("some seeds are there twice, and would count as images of their own: give different ones")
    for first, last in filter(None, (one.provenance.get("noise_seeds") for one in made)):
        seen = [seed for seed in seeds if first <= seed <= last]
        if seen:
            raise StepMaskError(
                f"{len(seen)} of {len(seeds)} seeds, {seen[0]} first, were used to learn it (seeds {first} to "
                f"{last}): evaluate on seeds that it has not seen"
            )
    return seeds
