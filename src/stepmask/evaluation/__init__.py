"""Measures what a mask costs in fidelity and what it saves, against the full run from the same noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import Tensor

from stepmask.cost import BATCH_SIZE
from stepmask.errors import StepMaskError
from stepmask.evaluation.conditions import Conditions
from stepmask.evaluation.fidelity import Spread, psnr_per_image, ssim_per_image
from stepmask.evaluation.result import Evaluation, circumstances
from stepmask.evaluation.sampler import Progress, Sampler, sample_pairs
from stepmask.inspection.overrides import unchecked
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.registry import denoiser_of
from stepmask.inspection.sampler_loop import as_pipeline
from stepmask.liveness import Plan, make_plan
from stepmask.mask import StepMask
from stepmask.runtime.apply import has_cache_of_diffusers, is_applied
from stepmask.runtime.task import Task

__all__ = ["Evaluation", "Spread", "evaluate", "evaluation_seeds", "psnr_per_image", "sampler_for", "ssim_per_image"]

FIRST_SEED = 10_000


def evaluate(
    pipe: Any,
    mask_or_plan: StepMask | Plan,
    *,
    seeds: int | Iterable[int] = 16,
    num_inference_steps: int | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
    scheduler: Any | None = None,
    speed: bool = True,
    speed_pairs: int = 3,
    reference: Tensor | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Sample with and without a mask from the same noise, and compare pictures, MACs and times.

    Every image has a seed of its own, so it does not depend on the batch that it is made in; class-conditional
    pipelines get labels from a fixed generator.

    Args:
        pipe: A diffusers pipeline; or a denoiser, with its `scheduler`.
        mask_or_plan: The mask, or a plan that was made of it.
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
            (``evaluation.full``), so that several masks share one full run.
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
    sampler, seeds = sampler_for(pipe, mask_or_plan, seeds, num_inference_steps, call_kwargs, conditions)
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
    plan, cost = sampler.ran or sampler.plan, sampler.task.costs
    return Evaluation.of(
        pairs,
        batch_size if speed else None,
        **circumstances(pipe, sampler.task.call_kwargs),
        num_inference_steps=sampler.task.num_inference_steps,
        rows=plan.num_rows,
        seeds=tuple(seeds),
        macs_fraction=cost.fraction(plan),
        macs_per_image=cost.total_macs(plan),
        full_macs_per_image=cost.full_macs(plan),
        cells=plan.cells,
        peak_cache_bytes=sampler.peak_cache_bytes,
        prompts=sampler.conditions.prompts(),
    )


def sampler_for(
    pipe: Any,
    mask_or_plan: StepMask | Plan,
    seeds: int | Iterable[int] = 16,
    num_inference_steps: int | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
) -> tuple[Sampler, list[int]]:
    """Return what samples with and without a mask, and the seeds to give it. The arguments are those of `evaluate`."""
    if is_applied(denoiser_of(pipe)):
        raise StepMaskError("a mask is applied to this model, so there is no full run to compare with: remove it first")
    if not isinstance(mask_or_plan, StepMask | Plan):
        raise StepMaskError(f"expected a StepMask or a Plan, got {type(mask_or_plan).__name__}")
    mask = mask_or_plan.mask if isinstance(mask_or_plan, Plan) else mask_or_plan
    seeds, record = evaluation_seeds(seeds, mask), mask.provenance
    call, arguments = PipelineCall(pipe), dict(call_kwargs or {})
    if record.get("guidance_scale") is not None and call.takes("guidance_scale"):
        arguments.setdefault("guidance_scale", record["guidance_scale"])
    steps = num_inference_steps or record.get("num_inference_steps") or mask.num_rows
    listed = call.listed(conditions).items()
    arguments = {name: [values[i % len(values)] for i in range(len(seeds))] for name, values in listed} | arguments
    task = Task(pipe, steps, call_kwargs=arguments, mask=mask_or_plan)
    mask.check(graph=task.graph)
    plan = mask_or_plan if isinstance(mask_or_plan, Plan) else make_plan(mask, task.graph)
    return Sampler(task, plan, Conditions(task.pipe, task.call_kwargs, len(seeds))), seeds


def evaluation_seeds(seeds: int | Iterable[int], mask: StepMask) -> list[int]:
    """Return the seeds as a list, after checking that learning has not seen them.

    Args:
        seeds: The seeds, or how many, counted from 10000.
        mask: Its provenance says under ``noise_seeds`` the first and last seed that it was learned on.

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
    if known := mask.provenance.get("noise_seeds"):
        first, last = known
        seen = [seed for seed in seeds if first <= seed <= last]
        if seen:
            raise StepMaskError(
                f"{len(seen)} of {len(seeds)} seeds, {seen[0]} first, were used to learn this mask (seeds {first} to "
                f"{last}): evaluate on seeds that it has not seen"
            )
    return seeds
