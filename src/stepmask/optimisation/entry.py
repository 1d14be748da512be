"""optimise: the door to recipes for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stepmask.errors import TargetError
from stepmask.evaluation.converged import ENOUGH
from stepmask.family import MaskFamily, Member
from stepmask.frontier import Frontier, Point
from stepmask.inspection.overrides import uncompiled
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.inspection.sampler_loop import as_pipeline
from stepmask.learning import learn_family
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
            as one; or several such numbers.
        num_images: Images that timesteps are learned on, and as many others that recipes are chosen by.
        num_held_back: Images, not used before, on which the results are measured.
        masks: Whether masks are learned; without, the levers are the others.
        mask_minutes: How long learning the masks of one number of steps may take.
        mask_options: Options of that learning, as `stepmask.learn_family` takes them.
        iterations: Steps of learning timesteps.
        enough: dB; where doubling the number of steps changes images by no more, they have converged.
        scheduler: The scheduler of a bare denoiser.
        seed: The seed of noise, conditions and draws.
        call_kwargs: Arguments for the pipeline's call.
        conditions: Prompts or class numbers, or a text file with one per line.
        resume: File to keep the state in. Where it exists, the search goes on from it, to the same frontier.
        progress: Whether to say how long it takes, and to show a progress bar.

    Returns:
        The frontier; ``frontier.at(10)`` picks a recipe.

    Raises:
        TargetError: A budget makes no sense.
        StepMaskError: The scheduler draws noise at each step, or `resume` belongs to another run.
    """
    wanted = _checked(budgets)
    for name, value in (("num_images", num_images), ("num_held_back", num_held_back)):
        check_whole(name, value, 2)
    check_whole("iterations", iterations, 0)
    pipe = as_pipeline(pipe, scheduler)
    effort = Effort(iterations=iterations, masks=masks)
    task = Task(pipe, max(1, int(wanted[0])), seed=seed, call_kwargs=call_kwargs, conditions=conditions)
    counted = Counted()
    identity = {
        "method": "optimise",
        **{name: value for name, value in task.identity().items() if name != "num_inference_steps"},
        "num_images": [num_images, num_held_back],
        "budgets": wanted,
        "masks": [masks, mask_minutes, {name: repr(value) for name, value in (mask_options or {}).items()}],
        "iterations": iterations,
        "enough": enough,
    }
    checkpoint = Checkpoint(resume, identity, counted)
    judge = Judge(pipe, seed, task.call_kwargs, num_images, num_held_back, checkpoint, enough)

    def learn(steps: int, times: Sequence[float] | None, shares: Sequence[float]) -> MaskFamily:
        key = f"masks.{steps}.{len(shares)}"
        if key not in checkpoint.values:
            run = GivenRun(pipe.scheduler, Recipe(num_inference_steps=steps, timesteps=times))
            options = {"seed": seed, "call_kwargs": task.call_kwargs, "max_minutes": mask_minutes, "progress": progress}
            state = None if resume is None else f"{resume}.{steps}-steps"
            try:
                found = learn_family(pipe, steps, shares, resume=state, **options, **(mask_options or {}))
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
        search = Search(judge, pipe, wanted, effort, learn, guided, voice)
        voice.total = search.num_pieces
        if progress:
            voice.say(_forecast(search, judge, effort, guided))
            voice.say(judge.said)
        points = list(search.points())
    return Frontier(tuple(_signed(point, task) for point in points), _facts(judge, counted, task))


def _checked(budgets: Any) -> list[float]:
    """The budgets as numbers.

    Raises:
        TargetError: They are none, or less than one evaluation.
    """
    given = [budgets] if not isinstance(budgets, Sequence) or isinstance(budgets, str) else list(budgets)
    try:
        wanted = sorted(set(finite_numbers("budgets", given)))
    except ValueError as error:
        raise TargetError(f"a budget is a number of evaluations of the denoiser, 10 for example: {error}") from error
    if not 1 <= len(wanted) <= MOST_BUDGETS or wanted[0] < 1:
        raise TargetError(
            f"budgets are up to {MOST_BUDGETS} numbers of evaluations, at least 1 each, got {budgets!r:.80}"
        )
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


def _signed(point: Point, task: Task) -> Point:
    """The point with what its recipe says of how it came to be."""
    recipe = point.recipe
    known = {
        **{name: value for name, value in task.facts(task.noise.seeds(0, 2)).items() if name != "num_inference_steps"},
        "num_inference_steps": recipe.num_inference_steps,
        "way": point.way,
        "budget": point.budget,
        "work": round(point.work, 4),
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
