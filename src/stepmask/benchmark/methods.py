"""What is compared: learned masks at several budgets, and the rivals at their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepmask.architectures import describe
from stepmask.learning import LearnConfig, learn
from stepmask.mask import StepMask
from stepmask.schedules import deepcache, fora

TARGETS = (0.7, 0.6, 0.5, 0.4)
INTERVALS = (2, 3, 4)
TRAJECTORIES = 8
PAPER_STEPS = 20
"""The paper's learner is compared up to so many steps: it costs as much as ours."""


@dataclass(frozen=True)
class Entry:
    """One mask of the comparison."""

    method: str
    setting: str
    make: Callable[[], StepMask]


def entries(pipe: Any, steps: int, call_kwargs: dict[str, Any], seed: int) -> Iterator[Entry]:
    """All masks for one pipeline and number of steps; nothing is learned before ``make`` is called."""
    for interval in INTERVALS:
        yield Entry("FORA", f"1:{interval}", lambda k=interval: fora(pipe, steps, k))
    if is_unet(pipe):
        for interval in (*INTERVALS, 5):
            yield Entry("DeepCache", f"1:{interval}", lambda k=interval: deepcache(pipe, steps, k))
    for target in TARGETS:
        yield Entry("learned", f"{target:g}", lambda t=target: learned(pipe, steps, t, call_kwargs, seed))
    if steps <= PAPER_STEPS:
        yield Entry("learned, paper", "0.5", lambda: learned(pipe, steps, 0.5, call_kwargs, seed, paper=True))


def learned(
    pipe: Any, steps: int, target: float, call_kwargs: dict[str, Any], seed: int, paper: bool = False
) -> StepMask:
    """A mask from the project's learner, or from the paper's as we read it."""
    make = LearnConfig.paper if paper else LearnConfig
    config = make(num_trajectories=TRAJECTORIES)
    return learn(pipe, steps, target, seed=seed, call_kwargs=call_kwargs, config=config)


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
