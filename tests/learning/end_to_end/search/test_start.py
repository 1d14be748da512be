"""learn(start=...): never worse than the masks it starts from, without the walk down; rows, refusals, resuming."""

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler

import stepmask
from stepmask import StepMask, StepMaskError, describe, learn, learn_family, make_plan, measure_cost
from stepmask.learning.end_to_end.judge import Judge
from stepmask.learning.end_to_end.search.search import Search
from stepmask.learning.end_to_end.tables import settle
from stepmask.runtime.noise import Noise
from stepmask.schedules import fora, key_steps
from tiny import ddim_pipeline, ddpm_pipeline, dit_pipeline

STEPS = 5
QUICK = {
    "rounds": 1, "gains": 0, "num_probes": 1, "num_validation": 3, "num_held_back": 2, "num_moves": 0, "shrink": 0.4,
    "progress": False,
}  # fmt: skip


def validation_psnr(pipe, mask: StepMask) -> float:
    noise = Noise(pipe, mask.num_rows, 0)
    full = noise.images(0, QUICK["num_validation"])
    with stepmask.apply(pipe, mask):
        return float(np.minimum(noise.psnrs(noise.images(0, QUICK["num_validation"]), full), 80).mean())


def cost_of(pipe, mask: StepMask) -> float:
    return measure_cost(pipe).fraction(make_plan(mask, describe(pipe)))


@pytest.mark.parametrize("make", [pytest.param(ddim_pipeline, marks=pytest.mark.slow), dit_pipeline])
def test_the_result_is_not_worse_than_the_start_and_nothing_is_walked_down(make):
    pipe, rounds = make(), []
    before = learn(pipe, STEPS, 0.6, **QUICK)
    mask = learn(pipe, STEPS, 0.6, start=before, callback=rounds.append, **QUICK)
    assert len({report.level for report in rounds}) == 1 and rounds[0].level >= 0.6
    assert cost_of(pipe, mask) <= 0.6
    assert validation_psnr(pipe, mask) >= validation_psnr(pipe, before) - 0.01
    assert mask.provenance["started_from_masks"] == 1


@pytest.mark.slow
def test_a_start_that_costs_much_less_does_not_replace_the_walk():
    pipe, rounds = dit_pipeline(), []
    learn(pipe, STEPS, 0.8, start=fora(pipe, STEPS, 4), callback=rounds.append, coarse=False, **QUICK)
    assert len(rounds) > 1


def test_without_rounds_the_best_of_several_is_taken(monkeypatch):
    """Of tables that nothing else is measured beside: regular schedules and key steps are hidden."""
    monkeypatch.setattr("stepmask.learning.end_to_end.search.coarse.coarse_steps", lambda *inputs: [])
    pipe = dit_pipeline()
    starts = [fora(pipe, 6, 2), fora(pipe, 6, 2, forecast="linear")]
    mask = learn(pipe, 6, 0.6, start=starts, **{**QUICK, "rounds": 0})
    best = max(starts, key=lambda start: validation_psnr(pipe, start))
    assert make_plan(mask, describe(pipe)).states.tolist() == make_plan(best, describe(pipe)).states.tolist()
    assert mask.provenance["made_by"] == "start" and mask.provenance["started_from_masks"] == 2


def test_a_start_that_is_behind_on_the_first_images_is_measured_on_all(monkeypatch):
    """So the result is not worse than it, also where a schedule is far ahead there."""
    pipe, measured = dit_pipeline(), []
    start = key_steps(pipe, STEPS, [0, 1], level="branch")
    monkeypatch.setattr(Search, "_try", lambda *_: None)  # hopeless, all of them
    psnrs = Judge.psnrs
    monkeypatch.setattr(Judge, "psnrs", lambda self, table: measured.append(table.actions) or psnrs(self, table))
    learn(pipe, STEPS, 0.6, start=start, coarse=False, **{**QUICK, "rounds": 0})
    graph = describe(pipe).innermost
    assert any(np.array_equal(actions, settle(start, graph).actions) for actions in measured)


def test_a_mask_of_another_sampler_and_number_of_steps_is_resampled():
    pipe = ddpm_pipeline()
    before = key_steps(pipe, 8, 4)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(STEPS)
    taken = before.resample(pipe.scheduler)
    target = cost_of(pipe, taken) + 1e-9
    mask = learn(pipe, STEPS, target, start=before, **QUICK)
    assert mask.num_rows == STEPS and mask.scheduler["class"] == "DPMSolverMultistepScheduler"
    assert validation_psnr(pipe, mask) >= validation_psnr(pipe, taken) - 0.01


@pytest.mark.slow
def test_a_family_starts_from_a_family():
    pipe, cold, rounds = dit_pipeline(), [], []
    options = {**QUICK, "coarse": False}
    before = learn_family(pipe, STEPS, (0.8, 0.6), callback=cold.append, **options)
    again = learn_family(pipe, STEPS, (0.8, 0.6), start=before, callback=rounds.append, **options)
    assert {report.target for report in rounds} == {0.8, 0.6} and len(rounds) < len(cold)
    for target in (0.8, 0.6):
        assert validation_psnr(pipe, again.at(target)) >= validation_psnr(pipe, before.at(target)) - 0.01


def test_the_start_is_part_of_what_a_search_is(tmp_path):
    pipe, path, options = dit_pipeline(), tmp_path / "state", {**QUICK, "rounds": 0}
    mask = learn(pipe, STEPS, 0.5, start=fora(pipe, STEPS, 4), resume=path, **options)
    assert learn(pipe, STEPS, 0.5, start=fora(pipe, STEPS, 4), resume=path, **options) == mask
    with pytest.raises(StepMaskError, match=r"belongs to another run \(start was"):
        learn(pipe, STEPS, 0.5, start=fora(pipe, STEPS, 3), resume=path, **options)


@pytest.mark.parametrize(("start", "options", "message"), [
    ("mask.json", {}, "start takes a StepMask, a MaskFamily or several masks, got str"),
    (3, {}, "got int"),
    (lambda: fora(ddim_pipeline(), STEPS, 2), {}, "it belongs to another model"),
    (lambda: fora(dit_pipeline(), STEPS, 2, forecast="linear"), {"forecast": False}, "forecast=False allows none"),
    (lambda: fora(dit_pipeline(), STEPS, 2), {"method": "paper"}, "method 'paper' does not know start; "),
])  # fmt: skip
def test_starts_that_make_no_sense(start, options, message):
    start = start() if callable(start) else start
    with pytest.raises(StepMaskError, match=message):
        learn(dit_pipeline(), STEPS, 0.6, start=start, progress=False, **options)
