"""learn and learn_family: the doors to learning. A task is made here, once, and handed to a registered learner."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stepmask.errors import UnsupportedModelError
from stepmask.family import MaskFamily, Member
from stepmask.inspection.overrides import uncompiled
from stepmask.learning.configuration import Configuration
from stepmask.learning.goals import DEFAULT_TARGET_MACS, Goals, Start, masks_of, shares_of
from stepmask.learning.job import Job
from stepmask.learning.processes import current, together
from stepmask.learning.registry import DEFAULT, Learner, configured
from stepmask.liveness import make_plan
from stepmask.mask import StepMask
from stepmask.runtime.rows import cut_to, only_rows, put_back
from stepmask.runtime.task import Task


class _Unasked(float):
    """A budget that nobody asked for."""


DEFAULT_TARGET = _Unasked(DEFAULT_TARGET_MACS)


@torch.inference_mode(False)  # what is made under a caller's inference mode could not be updated
@together()
def learn(
    pipe: Any,
    num_inference_steps: int = 50,
    target_macs: float | None = DEFAULT_TARGET,
    *,
    method: str | Configuration = DEFAULT,
    target_speedup: float | None = None,
    min_psnr: float | None = None,
    max_cache_bytes: int | None = None,
    max_minutes: float | None = None,
    scheduler: Any | None = None,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    start: Start | None = None,
    resume: str | Path | None = None,
    callback: Callable[[Any], None] | None = None,
    progress: bool = True,
    **options: Any,
) -> StepMask:
    """Learn which block computes, holds or forecasts at which step.

    Where several processes run, started by ``torchrun`` or ``accelerate launch`` or in a group of
    ``torch.distributed``, each calls this with the same arguments, its pipeline on a device of its own. They share the
    images out, and all return the same mask.

    Args:
        pipe: A diffusers pipeline, unconditional or class-conditional, or any other with `call_kwargs`; or a denoiser
            with its `scheduler`.
        num_inference_steps: The number of steps of the runs that the mask will be used for.
        target_macs: Kept share of the full run's MACs after elimination, 0.6 for 60%. The plan ends at or under it.
            None with ``method="paper"`` learns with a fixed ``lambda_sparse``.
        method: The name of a way to learn, or its configuration: ``"end-to-end"`` or
            `EndToEnd(...)` selects by the final image; ``"paper"`` or `Paper(...)` is arXiv 2603.19939 as we read it
            and makes binary masks. Packages such as stepmask-lab register more
            (`stepmask.learning.learners` lists them).
        target_speedup: Instead of `target_macs` or beside it: the factor by which the denoiser's time shall fall, by
            latencies of the sites that are measured here and now, for ``speed_batch_size`` images at once (an option
            of ``"end-to-end"``). Of both, the plan keeps to both.
        min_psnr: Instead of `target_macs`: the cheapest mask whose images have at least this mean PSNR in dB against
            the full run's, on held-back noise.
        max_cache_bytes: Most bytes that cached values may take per image, guidance included. By default six of the
            tensors that pass from block to block (0.16 GiB for flux-dev at 1024 pixels), and at least 64 MiB.
        max_minutes: How long learning may take. What it takes otherwise is said before it begins, where there is a
            progress bar. The effort is chosen by that, and what is best when time is up is returned. With `resume` the
            time of all sessions counts, and with more of it the same call goes on further.
        scheduler: The scheduler of a bare denoiser.
        seed: The seed of noise, conditions and draws. The same seed gives the same mask.
        call_kwargs: Arguments for the pipeline's call (guidance_scale, negative_prompt, ...).
        conditions: Prompts or class numbers to learn on, or a text file with one per line, gone through again and
            again; by default random classes, or 200 varied prompts.
        start: A mask, a family or several masks to start from, such as those learned before a fine-tune, for another
            sampler or by another method. On the validation noise the result is not worse than those that keep to the
            target.
        resume: File to keep the state in. Where it exists, learning goes on from it, to the same mask.
        callback: Called with a report after each step of the work, in the first of several processes; an exception in
            it stops learning.
        progress: Whether to show a progress bar, in the first of several processes.
        options: Single options of the method, in place of a configuration.

    Returns:
        The mask; its provenance says what was asked and what was reached, on how many held-back images, and what it
        took, resumed or not: ``denoiser_calls`` and ``seconds``.

    Raises:
        TargetError: No plan can cost so little, none was found that has the PSNR, or `max_minutes` are too few.
        UnsupportedModelError: The model has a cache of diffusers; or it is one that the method cannot learn on.
        StepMaskError: An option makes no sense, `resume` belongs to another run, or one of several processes failed.
    """
    learner, config = configured(method, options, learn)
    if isinstance(target_macs, _Unasked):
        target_macs = None if target_speedup is not None or min_psnr is not None else float(target_macs)
    goals = Goals(
        target_macs=target_macs,
        target_speedup=target_speedup,
        min_psnr=min_psnr,
        max_cache_bytes=max_cache_bytes,
        max_minutes=max_minutes,
        start=masks_of(start),
        needs_target=learner.needs_target,
    )
    learner.check(goals)
    about = {"scheduler": scheduler, "seed": seed, "call_kwargs": call_kwargs, "conditions": conditions}
    task = Task(pipe, num_inference_steps, only_what_runs=True, **about)
    return _run(learner, task=task, goals=goals, config=config, resume=resume, callback=callback, progress=progress)


@torch.inference_mode(False)
@together()
def learn_family(
    pipe: Any,
    num_inference_steps: int = 50,
    targets: Iterable[float] = (0.7, 0.6, 0.5, 0.4, 0.3),
    *,
    method: str | Configuration = DEFAULT,
    max_cache_bytes: int | None = None,
    max_minutes: float | None = None,
    scheduler: Any | None = None,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    start: Start | None = None,
    resume: str | Path | None = None,
    callback: Callable[[Any], None] | None = None,
    progress: bool = True,
    **options: Any,
) -> MaskFamily:
    """Learn masks for several budgets in one pass, each started from those before.

    `targets` are kept shares of the full run's MACs, in the place of the single goals of `learn`; all other arguments
    mean what they mean there. Of the methods, those make families whose ``goals`` have ``targets``.

    Returns:
        The best mask at each target and those found between; ``family.at(0.45)`` picks one.

    Raises:
        TargetError: No plan can cost so little, or `max_minutes` are too few.
        UnsupportedModelError: As `learn` raises it.
        StepMaskError: An option makes no sense, or `resume` belongs to another run.
    """
    learner, config = configured(method, options, learn_family)
    goals = Goals(
        targets=shares_of(targets), max_cache_bytes=max_cache_bytes, max_minutes=max_minutes, start=masks_of(start)
    )
    learner.check(goals)
    about = {"scheduler": scheduler, "seed": seed, "call_kwargs": call_kwargs, "conditions": conditions}
    task = Task(pipe, num_inference_steps, only_what_runs=True, **about)
    return _run(learner, task=task, goals=goals, config=config, resume=resume, callback=callback, progress=progress)


def _run(learner: Learner, **asked: Any) -> Any:
    """Learn, together with the other processes or in the first one alone; all return what the first one has."""
    processes = current()
    if learner.shares:
        return processes.gather(_learned(learner, **asked))[0]
    if processes.count > 1 and processes.is_first:
        warnings.warn(
            f"method {learner.name!r} does not share its work out: it learns in the first of the {processes.count} "
            "processes, and the others wait",
            stacklevel=2,
        )
    return processes.of_first(lambda: _learned(learner, **asked))


def _learned(learner: Learner, **asked: Any) -> Any:
    """Learn, and note what it took."""
    task = asked.pop("task")
    if task.rows is not None:
        starts = tuple(cut_to(mask, task.rows) for mask in asked["goals"].start)
        asked["goals"] = replace(asked["goals"], start=starts)
    job = Job(method=learner.name, task=task if learner.nested else task.innermost, **asked)
    _check_taken(learner, task)
    with uncompiled(task.pipe), job.effort.counting(*task.denoisers), only_rows(task.rows):
        found = learner(job)
    if isinstance(found, MaskFamily):
        return MaskFamily(tuple(Member(one.macs, one.psnr, _noted(one.mask, job, task)) for one in found))
    return _noted(found, job, task)


def _check_taken(learner: Learner, task: Task) -> None:
    """See that a method takes runs like those of a task.

    Raises:
        UnsupportedModelError: It does not.
    """
    if not learner.uneven and task.course is not None and not task.course.is_even:
        anew = f"begin anew at row {task.course.anew[0]}" if task.course.anew else "differ in their number of inputs"
        raise UnsupportedModelError(
            f"the rows of a run of {type(task.pipe).__name__} {anew} (guidance that ends, a second denoiser?), and "
            f"method {learner.name!r} takes all rows to cost alike: learn with method={DEFAULT!r}, or without that"
        )


def _noted(mask: StepMask, job: Job, task: Task) -> StepMask:
    """The mask with the way it was learned, what was asked, what its plan costs, and what learning took."""
    plan = make_plan(mask, task.graph)
    facts = {
        "method": job.method,
        "asked": job.goals.to_dict(),
        "macs": round(task.costs.fraction(task.run_by(plan)), 6),
        "cache_bytes_per_image": task.peak_cache_bytes(plan),
    }
    known = {**facts, **mask.provenance, "config": job.config.to_dict(), **job.effort.facts()}
    mask = replace(mask, provenance=known)
    return mask if task.rows is None else put_back(mask, task.rows, task.whole_timesteps)
