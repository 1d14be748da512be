"""The search of BudCache: schedules by their key steps, judged by the final latents that they end in.

A search is a deterministic function of what it has measured, and every measurement is kept. So an interrupted one is
simply run again on the same file, and goes through what it knows in moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stepmask.errors import TargetError
from stepmask.graph import BlockGraph
from stepmask.learning.budget import Budget
from stepmask.learning.interception import frozen
from stepmask.learning.job import Job
from stepmask.learning.refusals import check_learnable
from stepmask.liveness import rows_of
from stepmask.mask import StepMask
from stepmask_lab.rivals.budcache.config import BudCache
from stepmask_lab.rivals.budcache.moves import Steps, drawn, moved, neighbours


@dataclass(frozen=True)
class Progress:
    """What a callback gets after each move or step."""

    best: float
    """Least mean square of the change of the final latents."""

    def __str__(self) -> str:
        """How the search stands, in a few words."""
        return f"best mean square {self.best:.3g}"


def learn(job: Job) -> StepMask:
    """The best key steps at a budget, all blocks held between them (BudCache, Lei et al., ICML 2026, arXiv 2606.13496).

    Taken from the authors' code, first stage: a fixed number of key steps, the first quarter of them the first steps of
    the run; simulated annealing with their moves and temperatures, then hill climbing to the best of all near
    schedules; the mean square of the change of the final latents against the full run as the loss. What differs: what
    is held is the value of all blocks together, theirs is what the blocks add to what enters them, which only some
    models can have; losses are of 4 images, theirs of one; the number of key steps is the most that the target pays
    for. Their second stage, learned sigmas, is `budcache_recipe`.

    Raises:
        TargetError: The target is no share, or below the floor.
    """
    check_learnable(job.task.pipe)
    task, config = job.task, job.config
    num_rows = task.shape[0]
    budget = Budget(task.graph, task.costs)
    target = job.goals.target_macs
    budget.check_target(target, num_rows)
    fits = [n for n in range(1, num_rows + 1) if budget.cost(rows_of(table(task.graph, num_rows, range(n)))) <= target]
    if not fits:
        raise TargetError(f"target_macs={target:g} pays for no key step: ask for more")
    count = max(fits)
    checkpoint = job.checkpoint()
    losses = {tuple(steps): loss for steps, loss in checkpoint.values.setdefault("losses", [])}
    full = task.noise.latents(0, config.num_calibration)

    def loss(steps: Steps) -> float:
        if steps not in losses:
            blank = StepMask(
                compute=table(task.graph, num_rows, steps), sites=task.graph.names, timesteps=task.timesteps
            )
            with task.apply(blank):
                change = task.noise.latents(0, config.num_calibration) - full
            losses[steps] = change.double().square().mean().item()
            checkpoint.values["losses"] = [[list(known), value] for known, value in losses.items()]
            checkpoint.save()
        return losses[steps]

    total = config.restarts * (1 + config.annealing + config.climbing)
    with frozen(task.denoiser), job.reporting(total, "searching", "measuring the first schedule") as tell:
        best = min(search(loss, num_rows, count, config, task.seed, tell), key=loss)
    facts = task.facts(task.noise.seeds(0, config.num_calibration))
    found = {"target_macs": target, "steps": list(best), "mean_square": losses[best], "masks_tried": len(losses)}
    return task.mask(table(task.graph, num_rows, best), **found, **facts)


def search(
    loss: Callable[[Steps], float],
    num_rows: int,
    count: int,
    config: BudCache,
    seed: int = 0,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[Steps]:
    """The best key steps of each restart.

    Args:
        loss: Of key steps.
        num_rows: T.
        count: Number of key steps.
        config: How long to search.
        seed: Of the moves.
        tell: Gets a report after each move or step.
    """
    for restart in range(config.restarts):
        generator = np.random.default_rng([seed, restart])
        now = best = drawn(num_rows, count, generator)
        tell(Progress(loss(best)))
        for move in range(config.annealing):
            heat = config.hottest * (config.coldest / config.hottest) ** (move / config.annealing)
            candidate = moved(now, num_rows, generator)
            worse = loss(candidate) - loss(now)
            if worse < 0 or generator.random() < math.exp(-worse / heat):
                now = candidate
            best = min(best, now, key=loss)
            tell(Progress(loss(best)))
        for _ in range(config.climbing):
            candidate = min(neighbours(now, num_rows, generator), key=loss, default=now)
            if loss(candidate) >= loss(now):
                break
            now = candidate
            best = min(best, now, key=loss)
            tell(Progress(loss(best)))
        yield best


def table(graph: BlockGraph, num_rows: int, steps: Iterable[int]) -> np.ndarray:
    """(T, B) bool: at other steps nothing computes."""
    rests = np.ones(num_rows, dtype=bool)
    rests[list(steps)] = False
    compute = np.ones((num_rows, len(graph)), dtype=bool)
    compute[np.ix_(rests, graph.level("stack"))] = False
    return compute
