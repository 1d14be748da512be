"""DiP-GO on tiny models: targets, seeds, what is learned, and going on after an interrupt."""

import pytest

from refusal import check_refused
from stepmask import TargetError, describe, learn, make_plan, measure_cost
from stepmask_lab.rivals import DipGo
from tiny import ddim_pipeline, dit_pipeline

STEPS = 4
QUICK = {"method": "dip-go", "iterations": 2, "chain_images": 1, "progress": False}


@pytest.mark.parametrize(("make", "call_kwargs"), [(ddim_pipeline, None), (dit_pipeline, {"guidance_scale": 2.0})])
def test_a_mask_within_its_target(make, call_kwargs):
    pipe = make()
    mask = learn(pipe, STEPS, 0.7, call_kwargs=call_kwargs, **QUICK)
    cost = measure_cost(pipe, call_kwargs=call_kwargs).fraction(make_plan(mask, describe(pipe)))
    assert 0.4 < cost <= 0.7 and mask.provenance["macs"] == pytest.approx(cost, abs=1e-6)
    assert mask.scores.shape == mask.compute.shape and (mask.scores[0] == 1).all()
    assert ((mask.scores >= 0) & (mask.scores <= 1)).all()


def test_sparsity_closes_the_gates_and_consistency_keeps_them_open():
    gates = {}
    for weight in (0.0, 100.0):
        seen = []
        options = {**QUICK, "iterations": 6, "pruner_learning_rate": 0.05, "sparsity_weight": weight}
        learn(ddim_pipeline(), STEPS, 0.7, callback=seen.append, **options)
        gates[weight] = [report.mean_gate for report in seen]
    assert gates[100.0][-1] < gates[100.0][0] - 0.1, "closed"
    assert gates[0.0][-1] > gates[100.0][-1] + 0.1


def test_what_cannot_be_had_is_said():
    check_refused("cannot be reached", learn, dit_pipeline(), STEPS, 0.01, **QUICK, error=TargetError)
    check_refused("consistency must be one of ssim, squared", DipGo, consistency="lpips")
