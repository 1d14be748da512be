"""fit_gains: gains for a mask that is there already, at the same cost, and what its provenance says then."""

from dataclasses import replace

import numpy as np
import pytest

from stepmask import MaskMismatchError, StepMaskError, describe, make_plan, measure_cost
from stepmask.learning import fit_gains
from stepmask.learning.end_to_end.gradients.gains import GainFit
from stepmask.schedules import fora
from tiny import ddim_pipeline, dit_pipeline

STEPS = 6


@pytest.fixture(scope="module")
def schedule():
    return fora(dit_pipeline(), STEPS, 2, forecast="linear")


def test_a_schedule_with_gains(schedule):
    pipe = dit_pipeline()
    mask = fit_gains(pipe, schedule, iterations=3, seed=1)
    assert mask.gains is not None and mask.channel_gains and mask.graph == schedule.graph
    assert mask.provenance["method"] == "fora" and mask.provenance["gains"] == {"iterations": 3, "seed": 1}
    assert mask.provenance["denoiser_calls"] == (2 + 3) * STEPS, "full runs of two probes, and runs whose graph is kept"
    cost, graph = measure_cost(pipe), describe(pipe)
    assert cost.fraction(make_plan(mask, graph)) == cost.fraction(make_plan(schedule, graph))
    again = fit_gains(pipe, mask, iterations=2, channel_gains=False, seed=1)
    assert again.provenance["denoiser_calls"] > mask.provenance["denoiser_calls"], "of both fits"
    assert fit_gains(pipe, schedule, iterations=2, channel_gains=False).channel_gains is None


def test_gains_that_are_there_go_on_with_half_of_the_iterations(schedule, monkeypatch):
    steps = []
    monkeypatch.setattr(GainFit, "step", lambda self, *_: steps.append(self._rate))

    def rates(mask):
        steps.clear()
        fit_gains(dit_pipeline(), mask, iterations=5)
        return list(steps)

    cold, actions = rates(schedule), schedule.actions
    warm = rates(schedule.with_actions(actions, gains=np.full(actions.shape, 1.5)))
    assert len(cold) == 5 and len(warm) == 3 and max(warm) < min(cold)
    assert rates(schedule.with_actions(actions, channel_gains={schedule.sites[0]: np.full(16, 1.5)})) == warm


def test_what_does_not_belong_together(schedule):
    with pytest.raises(MaskMismatchError, match="rows"):
        fit_gains(dit_pipeline(), replace(schedule, provenance={"num_inference_steps": STEPS + 1}))
    with pytest.raises(MaskMismatchError, match="another model"):
        fit_gains(ddim_pipeline(), schedule)
    with pytest.raises(StepMaskError, match="iterations must be a whole number of at least 1, got 0"):
        fit_gains(dit_pipeline(), schedule, iterations=0)
