"""Learns key steps of a MODEL by sampling: no gradients, and no memory beyond that of a run.

It begins with the best of some spacings of the rule ``key_steps``, then moves single key steps as long as the latents
come nearer to those of the full run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from stepmask import StepMask, StepMaskError
from stepmask.schedules.key_steps import spaced

from .masked_sampling import under_mask

POWERS = (1.2, 1.0, 1.1, 1.35, 1.6)
"""Spacings that are tried first, as `stepmask.schedules.key_steps` has them."""
WHOLE = "all blocks"
"""The one site of a mask whose steps compute in full or rest in full; at sampling it stands for the outermost sites."""


def learn_key_steps(
    model: Any, sample: Callable[[Any], Tensor], timesteps: Sequence[float], num_key_steps: int, num_runs: int
) -> StepMask:
    """The key steps whose latents are nearest to those of the full run; between them all blocks are forecast.

    Args:
        model: A MODEL of ComfyUI, without a mask.
        sample: Samples with a MODEL, from the same noise each time.
        timesteps: Those of the sampler, one for each step.
        num_key_steps: How many of them compute.
        num_runs: Samplings beside the full one.

    Returns:
        A mask of whole steps, which fits the MODEL whatever its sites are called.

    Raises:
        StepMaskError: There are not so many steps.
    """
    num_steps = len(timesteps)
    if not 2 <= num_key_steps <= num_steps:
        raise StepMaskError(f"key_steps must be from 2 to the {num_steps} steps, got {num_key_steps}")
    wanted = sample(model).double()
    errors: dict[tuple[int, ...], float] = {}

    def judge(steps: Sequence[int]) -> None:
        mask = _whole(timesteps, steps)
        errors[tuple(steps)] = float((sample(under_mask(model, mask)).double() - wanted).square().mean())

    for power in POWERS:
        steps = spaced(num_steps, num_key_steps, power)
        if tuple(steps) not in errors and len(errors) < num_runs:
            judge(steps)
    while len(errors) < num_runs:
        best = min(errors, key=errors.get)
        steps = next((moved for moved in _moves(best, num_steps) if moved not in errors), None)
        if steps is None:
            break
        judge(steps)
    best = min(errors, key=errors.get)
    facts = {"method": "key_steps", "steps": list(best), "runs": len(errors) + 1, "latent_mse": errors[best]}
    return _whole(timesteps, best, **facts)


def _whole(timesteps: Sequence[float], computing: Sequence[int], **provenance: Any) -> StepMask:
    """A mask of whole steps: these compute, the others are forecast."""
    compute = np.isin(np.arange(len(timesteps)), computing)[:, None]
    return StepMask(compute=compute, forecast=~compute, sites=[WHOLE], timesteps=timesteps, provenance=provenance)


def _moves(steps: tuple[int, ...], num_steps: int) -> Iterator[tuple[int, ...]]:
    """The same key steps but for one that moves to a neighbouring step; the order is random, and always the same."""
    moves = [(i, by) for i in range(1, len(steps)) for by in (-1, 1)]
    random.Random(0).shuffle(moves)
    for i, by in moves:
        moved = steps[i] + by
        if 0 < moved < num_steps and moved not in steps:
            yield tuple(sorted((*steps[:i], moved, *steps[i + 1 :])))
