"""Learning-to-Cache: every second step may reuse what the step before it computed in full, and nothing else does."""

import numpy as np
import pytest
import torch

from jobs import job_for
from stepmask import TargetError, describe, learn, make_plan, measure_cost
from stepmask_lab.rivals import L2C
from stepmask_lab.rivals.l2c.learner import L2CLearner
from tiny import ddim_pipeline, dit_pipeline, generator

STEPS = 6
QUICK = {"method": "l2c", "num_trajectories": 2, "batch_size": 2, "progress": False}


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_only_every_second_step_reuses_and_what_that_costs_is_the_least(make):
    pipe = make()
    with pytest.raises(TargetError, match="where only every second step may reuse") as caught:
        learn(pipe, STEPS, 0.4, **QUICK)
    least = float(str(caught.value).split("ask for ")[1].split()[0])
    for target in (0.9, least):
        mask = learn(pipe, STEPS, target, **QUICK)
        assert mask.compute[::2].all() and not mask.compute.all() and mask.is_binary
        assert measure_cost(pipe).fraction(make_plan(mask, describe(pipe))) <= target
        assert mask.provenance["config"]["threshold"] == 0.1 and mask.provenance["method"] == "l2c"
    assert measure_cost(pipe).fraction(make_plan(mask, describe(pipe))) == pytest.approx(least, abs=1e-3)


def test_without_a_target_the_threshold_decides():
    mask = learn(dit_pipeline(), STEPS, None, lambda_sparse=1e-3, **QUICK)
    assert np.array_equal(mask.compute, mask.scores > 0.1)


def test_values_are_mixed_and_kept_above_the_threshold():
    learner = L2CLearner(job_for(dit_pipeline(), STEPS, L2C(batch_size=1)))
    mixed = learner.draw(torch.tensor([0.05, 0.2]), generator())
    assert torch.equal(mixed.weight, torch.tensor([[0.05, 0.2]])) and mixed.refresh.tolist() == [[False, True]]
    assert learner.trajectory == "teacher" and L2C(threshold=0.3).threshold == 0.3
