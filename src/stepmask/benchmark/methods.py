"""What is compared: learned masks at several budgets, and the rivals at their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepmask.architectures import describe
from stepmask.family import MaskFamily
from stepmask.learning import learn, learn_family
from stepmask.mask import StepMask
from stepmask.schedules import deepcache, fora

TARGETS = (0.7, 0.6, 0.5, 0.4, 0.3)
INTERVALS = (2, 3, 4, 5)
SEEDS = (0, 1)
BINARY_SEEDS = (0,)
ROUNDS: int | None = 3
"""Refining rounds at each target; None for the default."""
TRAJECTORIES = 8
PAPER_STEPS = 20
"""The paper's learner is compared up to so many steps: it costs as much as ours."""


@dataclass(frozen=True)
class Entry:
    """One mask of the comparison."""

    method: str
    setting: str
    make: Callable[[], StepMask]
    seed: int | None = None
    """Of learning; None for schedules."""


def entries(pipe: Any, steps: int, call_kwargs: dict[str, Any], families: Families) -> Iterator[Entry]:
    """All masks for one pipeline and number of steps; nothing is learned before ``make`` is called.

    Args:
        pipe: The pipeline.
        steps: Number of inference steps.
        call_kwargs: For its call.
        families: Learns, or finds, the family of a seed, with or without forecasts.
    """
    for forecast, suffix in ((None, ""), ("linear", " + forecast")):
        for k in INTERVALS:
            yield Entry(f"FORA{suffix}", f"1:{k}", lambda k=k, f=forecast: fora(pipe, steps, k, forecast=f))
        if is_unet(pipe):
            for k in INTERVALS:
                make = lambda k=k, f=forecast: deepcache(pipe, steps, k, forecast=f)  # noqa: E731
                yield Entry(f"DeepCache{suffix}", f"1:{k}", make)
    for seed in SEEDS:
        for target in TARGETS:
            yield Entry("learned", f"{target:g}", lambda t=target, s=seed: families(s, True).at(t), seed)
    for seed in BINARY_SEEDS:
        for target in TARGETS:
            yield Entry("learned, hold only", f"{target:g}", lambda t=target, s=seed: families(s, False).at(t), seed)
    if steps <= PAPER_STEPS:
        yield Entry("paper's learner", "0.5", lambda: paper(pipe, steps, 0.5, call_kwargs, 0), 0)


Families = Callable[[int, bool], MaskFamily]


def family(
    pipe: Any, steps: int, call_kwargs: dict[str, Any], seed: int, forecast: bool, resume: Path | None
) -> MaskFamily:
    """Masks at all targets, from one pass."""
    options = {} if ROUNDS is None else {"rounds": ROUNDS}
    return learn_family(
        pipe, steps, TARGETS, seed=seed, call_kwargs=call_kwargs, resume=resume, forecast=forecast, **options
    )


def paper(pipe: Any, steps: int, target: float, call_kwargs: dict[str, Any], seed: int) -> StepMask:
    """A mask from the paper's learner as we read it."""
    return learn(pipe, steps, target, method="paper", seed=seed, call_kwargs=call_kwargs, num_trajectories=TRAJECTORIES)


def random_mask(pipe: Any, steps: int, share: float = 0.5, seed: int = 0) -> StepMask:
    """Every block's cells compute with probability `share`: no method, but what an executor may have to run."""
    mask = fora(pipe, steps, 1)
    graph = describe(pipe)
    compute = mask.compute.copy()
    blocks = list(graph.blocks)
    compute[1:, blocks] = np.random.default_rng(seed).random((len(compute) - 1, len(blocks))) < share
    return StepMask(
        compute=compute,
        sites=mask.sites,
        timesteps=mask.timesteps,
        scheduler=mask.scheduler,
        graph=mask.graph,
        provenance={"method": "random", "num_inference_steps": steps},
    )


def is_unet(pipe: Any) -> bool:
    """Whether the sites have levels, which DeepCache needs."""
    return all(site.depth is not None for site in describe(pipe).sites)
