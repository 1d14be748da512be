"""The genetic search on tiny models: targets, families, seeds, and going on after an interrupt."""

import pytest

from refusal import check_refused
from stepmask import TargetError, apply, describe, learn, learn_family, make_plan, measure_cost
from stepmask.runtime.noise import Noise
from stepmask.schedules import fora
from stepmask_lab.rivals import Ecad
from tiny import ddim_pipeline, dit_pipeline

STEPS = 5
QUICK = {"method": "ecad", "population": 8, "generations": 2, "num_calibration": 1, "num_checked": 2, "progress": False}


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_a_mask_within_its_target(make):
    pipe = make()
    mask = learn(pipe, STEPS, 0.8, **QUICK)
    graph = describe(pipe).innermost
    cost = measure_cost(pipe).fraction(make_plan(mask, describe(pipe)))
    assert cost <= 0.8 and mask.provenance["macs"] == pytest.approx(cost, abs=1e-6)
    assert mask.compute.shape == (STEPS, len(graph)) and mask.is_binary
    assert mask.provenance["method"] == "ecad" and mask.provenance["psnr"]["held_back_images"] == 2
    samplers = [i for i in range(len(graph)) if i not in graph.blocks]
    assert mask.compute[:, samplers].all()


def test_generations_never_make_the_best_worse_and_the_first_knows_the_regular_schedules():
    pipe, seen = ddim_pipeline(), []
    mask = learn(pipe, STEPS, 0.8, callback=seen.append, **QUICK)
    assert [report.number for report in seen] == [0, 1, 2]
    psnrs = [report.psnr for report in seen]
    assert psnrs == sorted(psnrs) and mask.provenance["psnr"]["calibration_mean"] == pytest.approx(psnrs[-1], abs=1e-3)
    first = learn(pipe, STEPS, 0.8, **{**QUICK, "generations": 0})
    assert first.provenance["masks_tried"] == 8 < mask.provenance["masks_tried"]
    noise = Noise(pipe, STEPS, 0)
    full = noise.images(0, 1)
    for interval in (2, 3):
        with apply(pipe, fora(pipe, STEPS, interval)):
            assert noise.psnrs(noise.images(0, 1), full).mean() <= psnrs[0] + 1e-6


def test_a_family_has_the_best_at_each_target():
    family = learn_family(ddim_pipeline(), STEPS, (0.9, 0.6), **QUICK)
    assert 1 <= len(family) <= 2 and all(member.macs <= 0.9 for member in family)
    assert family.at(0.6).provenance["macs"] <= 0.6


def test_what_cannot_be_had_is_said():
    check_refused("cannot be reached", learn, dit_pipeline(), STEPS, 0.01, **QUICK, error=TargetError)
    with pytest.raises(TargetError, match=r"no mask within target_macs=0\.34 was found, the cheapest costs"):
        learn(dit_pipeline(), STEPS, 0.34, **{**QUICK, "generations": 0, "population": 4})
    check_refused("population must be a number between 4", Ecad, population=3)
