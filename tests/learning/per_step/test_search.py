"""The search keeps the best mask on the noise that it judges by, and starts from the best schedule."""

import numpy as np
import pytest

from stepmask import describe, learn
from stepmask.inspection.measure_cost import measure_cost
from stepmask.learning.budget import Budget
from stepmask.learning.effort import Effort
from stepmask.learning.paper.config import LearnConfig
from stepmask.learning.paper.learner import _Learner
from stepmask.liveness import rows_of
from stepmask.schedules import deepcache, fora
from tiny import ddim_pipeline, dit_pipeline

STEPS, TARGET = 8, 0.6
CONFIG = LearnConfig(num_trajectories=3, batch_size=2)


def learner_for(pipe) -> _Learner:
    return _Learner(pipe, STEPS, TARGET, 0, {}, CONFIG)


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_it_starts_from_the_best_schedule_within_the_budget(make):
    pipe = make()
    learner = learner_for(pipe)
    state = learner.begin(None, Effort())
    start = state.tensors["best"].numpy()
    budget = Budget(describe(pipe), measure_cost(pipe))
    assert budget.cost(rows_of(start)) <= TARGET
    graph, timesteps = describe(pipe), learner.timesteps
    rivals = [fora(graph, timesteps, k).compute for k in (2, 3, 4)]
    if make is ddim_pipeline:
        rivals += [deepcache(graph, timesteps, k).compute for k in (2, 3, 4)]
    within = [table for table in rivals if budget.cost(rows_of(table)) <= TARGET]
    assert within
    assert learner.search.psnr(start) == state.tensors["best_psnr"].item()
    # cells that fill the budget may move the image a little the wrong way
    assert learner.search.psnr(start) >= max(map(learner.search.psnr, within)) - 0.2


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_it_never_gets_worse_and_stays_within_the_budget(make):
    learner = learner_for(make())
    state = learner.begin(None, Effort())
    seen = [state.tensors["best_psnr"].item()]
    while state.trajectory < CONFIG.num_trajectories:
        learner.run_trajectory(state)
        best = state.tensors["best"].numpy()
        seen.append(state.tensors["best_psnr"].item())
        assert learner.search.psnr(best) == seen[-1], "the best mask is the one that was judged"
        assert learner.budget.cost(rows_of(best)) <= TARGET
    assert seen == sorted(seen)


def test_worthless_proposals_are_refused():
    learner = learner_for(ddim_pipeline())
    state = learner.begin(None, Effort())
    before = state.tensors["best_psnr"].item()
    rng = np.random.default_rng(0)
    for _ in range(3):
        learner.search.improve(state, rng.random(state.tensors["best"].shape))
        assert state.tensors["best_psnr"].item() >= before


def test_no_mask_stays_applied():
    pipe = ddim_pipeline()
    learn(pipe, STEPS, TARGET, config=CONFIG, progress=False)
    assert all("forward" not in vars(module) for module in pipe.unet.modules())
