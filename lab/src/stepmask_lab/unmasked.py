"""Measures a pipeline that runs something of its own, without a mask, as `stepmask.evaluate` measures a mask.

What it costs cannot be read from a plan: the MACs are those that ran, averaged over the images; over one batch where
speed is measured, since counting takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from stepmask.evaluation import Evaluation, sampler_for
from stepmask.evaluation.result import circumstances
from stepmask.evaluation.sampler import Sampler, sample_pairs
from stepmask.evaluation.speed import Times
from stepmask.inspection.registry import denoiser_of
from stepmask.runtime.task import Task
from stepmask.schedules import fora
from stepmask_lab.mac_counter import counted

Running = Callable[[], AbstractContextManager[tuple[Any, int]]]
"""What gives the pipeline to call and its number of steps, for one call."""


@dataclass(kw_only=True)
class OtherSampler(Sampler):
    """Runs a pipeline plainly, or with something of its own in place of a plan."""

    running: Running
    counting: bool = True
    """Whether to count what runs, which takes time."""
    macs: int = 0
    """MACs of all images that were counted."""
    num_counted: int = 0

    def masked(self, start: int, seeds: Sequence[int]) -> tuple[Tensor, Times]:
        """Images and times of the other run; see `Sampler.full`."""
        with self.running() as (pipe, steps):
            other = replace(self, task=Task(pipe, steps, call_kwargs=self.task.call_kwargs))
            if not self.counting:
                return other.full(start, seeds)
            with counted(denoiser_of(pipe)) as counter:
                result = other.full(start, seeds)
        self.macs += counter.macs
        self.num_counted += len(seeds)
        return result

    def full_macs_per_image(self, seed: int) -> float:
        """MACs of the full run of one image, counted in the same way."""
        with counted(self.task.denoiser) as counter:
            self.full(0, [seed])
        return counter.macs


def evaluate_unmasked(
    pipe: Any,
    num_inference_steps: int,
    running: Running,
    *,
    seeds: int,
    call_kwargs: Any = None,
    conditions: Any = None,
    batch_size: int = 16,
    speed: bool = True,
    speed_pairs: int = 3,
    reference: Tensor | None = None,
) -> Evaluation:
    """Compare what `running` gives with the full run from the same noise.

    Args:
        pipe: The pipeline.
        num_inference_steps: Of the full run.
        running: Entered for every batch anew, so nothing is carried from one to the next.
        seeds: Number of images; the other arguments are those of `stepmask.evaluate`.
        call_kwargs: For the pipeline's call.
        conditions: Prompts or class numbers.
        batch_size: Images per call.
        speed: Whether to measure the speed-up, full and other runs in turns.
        speed_pairs: Smallest number of such pairs.
        reference: Images of the full run from an earlier evaluation.

    Returns:
        An evaluation without cells, whose peak of cached bytes is unknown and 0.
    """
    everything = fora(pipe, num_inference_steps, 1)
    plain, numbers = sampler_for(pipe, everything, seeds, num_inference_steps, call_kwargs, conditions)
    sampler = OtherSampler(**vars(plain), running=running, counting=not speed)
    pairs = sample_pairs(sampler, numbers, batch_size, reference=reference, timed_pairs=speed_pairs if speed else 0)
    if speed:
        sampler.counting = True
        sampler.masked(0, numbers[:batch_size])
    macs, full_macs = sampler.macs / sampler.num_counted, sampler.full_macs_per_image(numbers[0])
    with running() as (other, steps):
        known, rows = circumstances(other, plain.task.call_kwargs), len(fora(other, steps, 1).compute)
    return Evaluation.of(
        pairs,
        batch_size if speed else None,
        **known,
        num_inference_steps=steps,
        rows=rows,
        seeds=tuple(numbers),
        macs_fraction=macs / full_macs,
        macs_per_image=macs,
        full_macs_per_image=full_macs,
        cells={},
        peak_cache_bytes=0,
        prompts=sampler.conditions.prompts(),
    )
