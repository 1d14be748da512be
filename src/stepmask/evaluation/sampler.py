"""Pairs of runs, full and masked, from the same noise: what `evaluate` judges and `stepmask sample` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from stepmask.errors import StepMaskError
from stepmask.evaluation.conditions import Conditions
from stepmask.evaluation.speed import Times, timed
from stepmask.inspection.registry import denoisers_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.liveness import Plan
from stepmask.recipe import Recipe
from stepmask.runtime.recipes import apply_recipe
from stepmask.runtime.sampling import sample
from stepmask.runtime.task import Task
from stepmask.runtime.work import Work, work_of

Progress = Callable[[int, int], None]
"""Called after every run with the number of runs done and the number to do."""


@dataclass
class Sampler:
    """Runs a pipeline with one seed per image, fully or under a plan."""

    task: Task  #: The pipeline, its number of steps, and what its call takes beside the conditions of each image.
    plan: Plan  #: What the masked run executes; of a recipe without a mask one that computes everything.
    conditions: Conditions  #: Call arguments of every image.
    ran: Plan | None = None  #: What the latest masked run executed: less than the plan where it began late.
    peak_cache_bytes: int = 0  #: Largest cache of all masked runs so far.
    recipe: Recipe | None = None  #: What the masked run executes, where that is more than a plan.
    cache_device: torch.device | None = None  #: Where cached values wait; None leaves them where they were computed.

    def full(self, start: int, seeds: Sequence[int], num_inference_steps: int | None = None) -> tuple[Tensor, Times]:
        """Return images (N, C, H, W) in [0, 1] of the plain pipeline, one per seed, and the times of the run.

        `start` is the index of the first image, which picks the conditions. The number of steps is that of the task
        unless it is given.
        """
        pipe, arguments = self.task.pipe, self.conditions.slice(start, start + len(seeds))
        steps = num_inference_steps or self.task.num_inference_steps
        with _evaluation_mode(pipe):
            images, times = timed(pipe, lambda: sample(pipe, arguments, seeds, steps))
        return _in_unit_range(pipe, images), times

    def masked(self, start: int, seeds: Sequence[int]) -> tuple[Tensor, Times]:
        """Return images (N, C, H, W) in [0, 1] under the plan or recipe, and the times of the run; see `full`."""
        if self.recipe is not None:
            return self._by_recipe(start, seeds)
        with self.task.apply(self.plan, checked=True, cache_device=self.cache_device) as handle:
            result = self.full(start, seeds)
            self.ran, self.peak_cache_bytes = handle.ran, max(self.peak_cache_bytes, handle.peak_cache_bytes)
        return result

    def _by_recipe(self, start: int, seeds: Sequence[int]) -> tuple[Tensor, Times]:
        options = {"call_kwargs": self.task.call_kwargs, "cache_device": self.cache_device}
        with apply_recipe(self.task.pipe, self.recipe, **options) as handle:
            result = self.full(start, seeds)
            if handle.mask is not None:
                self.peak_cache_bytes = max(self.peak_cache_bytes, handle.mask.peak_cache_bytes)
        return result

    def work(self) -> Work:
        """Return what one image of the masked run costs."""
        if self.recipe is not None:
            return work_of(self.recipe, self.task)
        plan, cost = self.ran or self.plan, self.task.costs
        macs = cost.total_macs(plan)
        return Work(macs, cost.full_macs(plan), macs / cost.step_macs)

    def warm_up(self, seeds: Sequence[int]) -> None:
        """Run a few steps of the plain pipeline at this batch size, for nothing. PNDM runs no fewer than four."""
        with _evaluation_mode(self.task.pipe):
            sample(self.task.pipe, self.conditions.slice(0, len(seeds)), seeds, min(5, self.task.num_inference_steps))


@dataclass
class Pairs:
    """Holds the images of both runs, and the times of the batches in which both were made."""

    full: Tensor  #: (N, C, H, W) float32 in [0, 1].
    masked: Tensor  #: The same images under the plan.
    times: list[tuple[Times, Times]]  #: Full and masked times of each pair of whole batches.
    seconds: dict[str, float]  #: What the calls for all images took, ``full`` (0 with a reference) and ``masked``.


def sample_pairs(
    sampler: Sampler,
    seeds: Sequence[int],
    batch_size: int,
    *,
    reference: Tensor | None = None,
    timed_pairs: int = 0,
    progress: Progress | None = None,
) -> Pairs:
    """Make every image twice, batch by batch in turns; under the plan alone where `reference` holds the full images.

    For measuring speed at least `timed_pairs` pairs of whole batches are made, after a warm-up. Pairs beyond the images
    that are asked for are made from their seeds again and thrown away.
    """
    starts = range(0, len(seeds), batch_size)
    extra = max(0, timed_pairs - (len(seeds) // batch_size if reference is None else 0))
    todo, done = len(starts) * (2 if reference is None else 1) + 2 * extra, count(1)

    def told(run: tuple[Tensor, Times]) -> tuple[Tensor, Times]:
        if progress is not None:
            progress(next(done), todo)
        return run

    whole = [seeds[i % len(seeds)] for i in range(batch_size)]
    if timed_pairs:
        sampler.warm_up(whole)
    full_images, masked_images, times, seconds = [], [], [], {"full": 0.0, "masked": 0.0}
    for start in starts:
        batch = seeds[start : start + batch_size]
        full = told(sampler.full(start, batch)) if reference is None else None
        masked = told(sampler.masked(start, batch))
        masked_images.append(masked[0])
        seconds["masked"] += masked[1].call
        if full is not None:
            full_images.append(full[0])
            seconds["full"] += full[1].call
            if len(batch) == batch_size:
                times.append((full[1], masked[1]))
    for _ in range(extra):
        times.append((told(sampler.full(0, whole))[1], told(sampler.masked(0, whole))[1]))
    whole_run = torch.cat(full_images) if reference is None else reference
    return Pairs(whole_run, torch.cat(masked_images), times, seconds)


def sample_masked(sampler: Sampler, seeds: Sequence[int], batch_size: int, progress: Progress | None = None) -> Tensor:
    """Make every image under the plan alone. Returns (N, C, H, W) float32 in [0, 1]."""
    starts = range(0, len(seeds), batch_size)
    images = []
    for done, start in enumerate(starts, start=1):
        images.append(sampler.masked(start, seeds[start : start + batch_size])[0])
        if progress is not None:
            progress(done, len(starts))
    return torch.cat(images)


@contextmanager
def _evaluation_mode(pipe: Any) -> Iterator[None]:
    """Models that were built, not loaded, are in training mode, where DiT drops labels at random."""
    denoisers = nn.ModuleList(denoisers_of(pipe))
    training = [module for module in denoisers.modules() if module.training]
    denoisers.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _in_unit_range(pipe: Any, images: Tensor) -> Tensor:
    """A bare loop returns samples as the model makes them, around [-1, 1]; pipelines return pictures."""
    if isinstance(pipe, SamplerLoop):
        images = (images / 2 + 0.5).clamp(0, 1)
    if images.dim() not in (4, 5):
        raise StepMaskError(
            "expected images of the shape (N, C, H, W) or videos (N, frames, C, H, W), the pipeline made "
            f"{tuple(images.shape)}"
        )
    return images
