"""HarmoniCa and Learning-to-Cache as configurations of the per-step learner: what makes them what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepmask import StepMaskError, TargetError, describe, learn, make_plan, measure_cost
from stepmask.learning import LearnConfig
from stepmask.learning.paper.losses import relative_norm, squared_loss
from stepmask.learning.paper.output_change import calibrate
from stepmask.learning.paper.relaxations import draw
from stepmask.runtime.sampling import sample
from tiny import ddim_pipeline, dit_pipeline, generator

STEPS = 6
QUICK = {"num_trajectories": 3, "batch_size": 2, "progress": False}


@pytest.mark.parametrize("method", ["harmonica", "l2c"])
@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_masks_within_the_target(method, make):
    pipe = make()
    mask = learn(pipe, STEPS, 0.8, method=method, **QUICK)
    assert measure_cost(pipe).fraction(make_plan(mask, describe(pipe))) <= 0.8
    assert mask.provenance["config"]["threshold"] == 0.1 and mask.is_binary


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_l2c_reuses_only_what_the_step_before_computed_in_full(make):
    pipe = make()
    with pytest.raises(TargetError, match="where only every second step may reuse") as caught:
        learn(pipe, STEPS, 0.4, method="l2c", **QUICK)
    least = float(str(caught.value).split("ask for ")[1].split()[0])
    for target in (0.9, least):
        mask = learn(pipe, STEPS, target, method="l2c", **QUICK)
        assert mask.compute[::2].all() and not mask.compute.all()
    assert measure_cost(pipe).fraction(make_plan(mask, describe(pipe))) == pytest.approx(least, abs=1e-3)


def test_alternation_with_projection_and_not_with_search():
    pipe = ddim_pipeline()
    mask = learn(pipe, STEPS, 0.75, method="per-step", alternate=True, sparsity="projection", **QUICK)
    assert measure_cost(pipe).fraction(make_plan(mask, describe(pipe))) <= 0.75 and mask.compute[::2].all()
    with pytest.raises(StepMaskError, match='alternate needs sparsity="penalty" or "projection"'):
        LearnConfig(alternate=True)


def test_without_a_target_the_threshold_decides():
    mask = learn(dit_pipeline(), STEPS, None, method="l2c", lambda_sparse=1e-3, **QUICK)
    assert np.array_equal(mask.compute, mask.scores > 0.1)


def test_teacher_and_student():
    assert LearnConfig.l2c().trajectory == "teacher" and LearnConfig.harmonica().trajectory == "student"
    assert LearnConfig.l2c().sampling == "interpolation" and LearnConfig.harmonica().sampling == "threshold"
    assert LearnConfig.harmonica(threshold=0.3).threshold == 0.3


def test_draws_by_threshold_are_hard_with_a_straight_gradient():
    found = draw(torch.tensor([0.0, 0.1, 0.2, 1.0]), 3, "threshold", 0.5, generator(), threshold=0.1)
    assert torch.equal(found.weight, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, -1))
    assert torch.equal(found.refresh, found.weight.bool()) and (found.slope == 1).all()
    mixed = draw(torch.tensor([0.05, 0.2]), 1, "interpolation", 0.5, generator(), threshold=0.1)
    assert torch.equal(mixed.refresh, torch.tensor([[False, True]]))


def test_the_proxy_is_the_squared_change_of_the_final_image():
    pipe, images = ddim_pipeline(), []

    def call():
        images.append(sample(pipe, {"batch_size": 2}, [0, 1], STEPS))
        return images[-1]

    found = calibrate(pipe, call, "proxy", num_probes=100)
    full, *held = images
    moved = torch.stack([relative_norm(one - full, full).mean() for one in held]).square()
    assert len(held) == STEPS - 1, "one run for each step that holds"
    assert torch.allclose(found.importance[1:], moved / moved.mean(), rtol=1e-4)


def test_the_squared_loss():
    assert squared_loss(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]])).item() == 2
