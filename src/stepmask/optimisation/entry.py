"""optimise: the door to recipes for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stepmask.errors import TargetError
from stepmask.evaluation.converged import ENOUGH
from stepmask.evaluation.result import device_name
from stepmask.family import MaskFamily, Member
from stepmask.frontier import EVALUATIONS, MILLISECONDS, UNITS, Frontier, Point
from stepmask.inspection.overrides import uncompiled
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.placement import device_of
from stepmask.inspection.sampler_loop import as_pipeline
from stepmask.learning import learn, learn_family
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.effort import Effort as Counted
from stepmask.mask import StepMask, scheduler_identity
from stepmask.optimisation.judge import Judge
from stepmask.optimisation.search import MOVES, Effort, Search
from stepmask.printing import console
from stepmask.recipe import Recipe
from stepmask.recipe_file import finite_numbers
from stepmask.runtime.given_run import GivenRun
from stepmask.runtime.task import Task, check_whole
from stepmask.words import duration

MOST_BUDGETS = 50
MARGIN = 0.97
"""Masks are learned for such a share of the time that they may take, for two measurements of it differ."""


@torch.inference_mode(False)
def optimise(
    pipe: Any,
    budgets: float | Sequence[float] = 10,
    *,
    num_images: int = 8,
    num_held_back: int = 16,
    masks: bool = True,
    mask_minutes: float | None = None,
    mask_options: Mapping[str, Any] | None = None,
    iterations: int = 3,
    enough: float = ENOUGH,
    scheduler: Any | None = None,
    unit: str = EVALUATIONS,
    batch_size: int = 1,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> Frontier:
    """Find the best recipe for a budget of work, or for several in one pass.

    Quality is the PSNR to the converged run from the same noise: the run of so many steps that more of them change
    nothing. At each budget every lever is tried alone (fewer steps, timesteps by the schedule or learned, masks at more
    steps, low resolution in the early steps, guidance), and all together.

    Args:
        pipe: A diffusers pipeline; or a denoiser with its `scheduler`.
        budgets: Evaluations of the denoiser at full resolution that an image may take, both halves of guidance counted
            as one; or what `unit` says. One such number, or several.
        num_images: Images that timesteps are learned on, and as many others that recipes are chosen by.
        num_held_back: Images, not used before, on which the results are measured.
        masks: Whether masks are learned; without, the levers are the others.
        mask_minutes: How long learning the masks of one number of steps may take.
        mask_options: Options of that learning, as `stepmask.learn_family` takes them.
        iterations: Steps of learning timesteps.
        enough: dB; where doubling the number of steps changes images by no more, they have converged.
        scheduler: The scheduler of a bare denoiser.
        unit: What work is counted in: ``"evaluations"``, ``"gmacs"``, billions of multiply-accumulates for an image, or
            ``"ms"``, milliseconds of the denoiser for a batch. Then steps are timed where the model is, at each
            resolution, and each mask is learned for a speed-up.
        batch_size: Images in that batch.
        seed: The seed of noise, conditions and draws.
        call_kwargs: Arguments for the pipeline's call.
        conditions: Prompts or class numbers, or a text file with one per line.
        resume: File to keep the state in. Where it exists, the search goes on from it, to the same frontier.
        progress: Whether to say how long it takes, and to show a progress bar.

    Returns:
        The frontier; ``frontier.at(10)`` picks a recipe.

    Raises:
        TargetError: A budget or its unit makes no sense.
        StepMaskError: The scheduler draws noise at each step, or `resume` belongs to another run.
    """
    asked = _checked(budgets, unit)
    for name, value, least in (("num_images", num_images, 2), ("num_held_back", num_held_back, 2),
                               ("batch_size", batch_size, 1)):  # fmt: skip
        check_whole(name, value, least)
    check_whole("iterations", iterations, 0)
    pipe = as_pipeline(pipe, scheduler)
    effort = Effort(iterations=iterations, masks=masks)
    task = Task(pipe, 1, seed=seed, call_kwargs=call_kwargs, conditions=conditions)
    counted = Counted()
    identity = {
        "method": "optimise",
        **{name: value for name, value in task.identity().items() if name != "num_inference_steps"},
        "num_images": [num_images, num_held_back],
        "budgets": asked,
        **({} if unit == EVALUATIONS else {"unit": [unit, batch_size]}),
        "masks": [masks, mask_minutes, {name: repr(value) for name, value in (mask_options or {}).items()}],
        "iterations": iterations,
        "enough": enough,
    }
    checkpoint = Checkpoint(resume, identity, counted)
    timed = batch_size if unit == MILLISECONDS else None
    judge = Judge(pipe, seed, task.call_kwargs, num_images, num_held_back, checkpoint, enough, timed)
    each = {EVALUATIONS: 1.0, "gmacs": judge.steps.whole / 1e9, MILLISECONDS: judge.steps.whole}[unit]
    wanted = _evaluations(asked, each, unit)

    def said(evaluations: float) -> str:
        return f"{evaluations * each:.4g} {unit}"

    def learn(steps: int, times: Sequence[float] | None, shares: Sequence[float]) -> MaskFamily:
        key = f"masks.{steps}.{len(shares)}"
        if key not in checkpoint.values:
            run = GivenRun(pipe.scheduler, Recipe(num_inference_steps=steps, timesteps=times))
            options = {"seed": seed, "call_kwargs": task.call_kwargs, "max_minutes": mask_minutes, "progress": progress}
            options |= {"resume": None if resume is None else f"{resume}.{steps}-steps", **(mask_options or {})}
            try:
                if timed is None:
                    found = learn_family(pipe, steps, shares, **options)
                else:
                    found = _in_time(pipe, steps, shares, options, timed)
            finally:
                run.remove()
            checkpoint.values[key] = [[one.macs, one.psnr, one.mask.to_dict()] for one in found]
            checkpoint.save()
        members = (Member(macs, psnr, StepMask.from_dict(mask)) for macs, psnr, mask in checkpoint.values[key])
        return MaskFamily(tuple(members))

    guided = task.costs.forwards_per_image == 2 and PipelineCall(pipe).forwards_per_image(task.call_kwargs) == 2
    voice = _Voice(progress)
    with uncompiled(pipe), counted.counting(task.denoiser):
        guided = guided and judge.guides_in_one_call
        search = Search(judge, pipe, wanted, effort, learn, guided, said, voice)
        voice.total = search.num_pieces
        if progress:
            voice.say(_forecast(search, judge, effort, guided))
            voice.say(judge.said)
            if unit != EVALUATIONS:
                voice.say(f"an evaluation takes {said(1)}")
        points = list(search.points())
    points = [replace(point, budget=asked[wanted.index(point.budget)], work=point.work * each) for point in points]
    facts = _facts(judge, counted, task) | ({} if unit == EVALUATIONS else {"unit": unit})
    facts |= {} if timed is None else {"batch_size": timed, "device": device_name(device_of(task.denoiser))}
    return Frontier(tuple(_signed(point, task, unit) for point in points), facts)


def _in_time(pipe: Any, steps: int, shares: Sequence[float], options: Mapping[str, Any], batch_size: int) -> MaskFamily:
    """A mask for each share of the full run's time, learned one by one.

    Raises:
        TargetError: None of them can be reached.
    """
    found, state = [], options["resume"]
    for share in shares:
        own = {**options, "resume": None if state is None else f"{state}.{share:.4f}", "speed_batch_size": batch_size}
        try:
            mask = learn(pipe, steps, target_speedup=1 / (share * MARGIN), **own)
        except TargetError:
            if share == shares[-1] and not found:
                raise
            continue
        found.append(Member(mask.provenance["macs"], mask.provenance["psnr"]["mean"], mask))
    return MaskFamily(tuple(sorted(found, key=lambda member: -member.macs)))


def _evaluations(asked: Sequence[float], each: float, unit: str) -> list[float]:
    """Budgets in evaluations.

    Raises:
        TargetError: One is less than an evaluation.
    """
    if asked[0] < each:
        whole = "" if unit == EVALUATIONS else f", and one takes {each:.4g} {unit} here"
        raise TargetError(f"budgets are at least 1 evaluation of the denoiser each{whole}, got {asked[0]:g} {unit}")
    return [amount / each for amount in asked]


def _checked(budgets: Any, unit: Any) -> list[float]:
    """The budgets as numbers.

    Raises:
        TargetError: They are none, or their unit is not known.
    """
    if unit not in list(UNITS):
        raise TargetError(f"unit must be one of {', '.join(UNITS)}, got {unit!r:.80}")
    given = [budgets] if not isinstance(budgets, Sequence) or isinstance(budgets, str) else list(budgets)
    try:
        wanted = sorted(set(finite_numbers("budgets", given)))
    except ValueError as error:
        raise TargetError(f"a budget is a number of {UNITS[unit]}, 10 for example: {error}") from error
    if not 1 <= len(wanted) <= MOST_BUDGETS:
        raise TargetError(f"budgets are up to {MOST_BUDGETS} numbers of {UNITS[unit]}, got {budgets!r:.80}")
    return wanted


class _Voice:
    """Says what was found, piece by piece."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._done, self.total = shown, 0, 0

    def __call__(self, what: str) -> None:
        self._done += 1
        self.say(f"[{self._done}/{self.total}] {what}")

    def say(self, what: str) -> None:
        """Say something that is no piece of the work."""
        if self._shown:
            console().print(what, soft_wrap=True)


def _forecast(search: Search, judge: Judge, effort: Effort, guided: bool) -> str:
    """About how long it takes, in words: by the time of a short run, and the number of evaluations to come."""
    steps, n, m = judge.converged_steps, judge.choosing[1], judge.held_back[1]
    count = steps * (2 * n + m)
    for one in search.all_steps:
        count += 2 * one * n
        if one <= effort.learned_up_to:
            count += effort.iterations * one * (one + 1) * n
    for budget in search.budgets:
        count += sum(20 * one * n for one in search.steps(budget)) + 6 * budget * m
        count += 2 * MOVES * budget * n if guided else 0
    masks = search.mask_steps
    more = f"; learning masks for {', '.join(map(str, masks))} steps says itself how long it takes" if masks else ""
    return f"measuring takes about {duration(count * judge.pace)}{more}"


def _signed(point: Point, task: Task, unit: str) -> Point:
    """The point with what its recipe says of how it came to be."""
    recipe = point.recipe
    known = {
        **{name: value for name, value in task.facts(task.noise.seeds(0, 2)).items() if name != "num_inference_steps"},
        "num_inference_steps": recipe.num_inference_steps,
        "way": point.way,
        "budget": point.budget,
        "work": round(point.work, 4),
        **({} if unit == EVALUATIONS else {"unit": unit}),
        "psnr_to_converged": {
            "mean": round(point.psnr, 3),
            "confidence_95": [round(value, 3) for value in point.confidence],
            "held_back_images": point.images,
        },
    }
    scheduler = scheduler_identity(task.pipe.scheduler)
    return replace(point, recipe=replace(recipe, scheduler=scheduler, provenance=known))


def _facts(judge: Judge, counted: Counted, task: Task) -> dict[str, Any]:
    return {"model": type(task.denoiser).__name__, "converged": judge.said, **counted.facts()}
