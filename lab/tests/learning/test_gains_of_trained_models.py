"""Gains on a trained model bring images closer: what random weights make of noise hardly depends on a step."""

import numpy as np
import pytest

import stepmask
from fitting import Fitting
from jobs import job_for
from stepmask.learning import EndToEnd, fit_gains
from stepmask.learning.end_to_end.learner import EndToEndLearning
from stepmask.schedules import fora
from stepmask_lab import reference

STEPS = 6
GUIDED = {"guidance_scale": 2.5}


def trained():
    return reference.load("dit-cifar10")


@pytest.mark.parametrize("forecast", ["linear", pytest.param(None, marks=pytest.mark.slow)])
def test_images_come_closer_at_the_same_cost(forecast):
    fitting = Fitting(trained, fora(trained(), STEPS, 2, forecast=forecast), 6)
    first, *_, last = [fitting.step() for _ in range(6)]
    mask = fitting.fit.mask
    assert last < first - 1 and fitting.error_db(mask) < first - 1
    assert mask.gains is not None and mask.channel_gains and not mask.is_binary
    assert np.array_equal(mask.compute, fitting.before.compute)
    assert fitting.budget.cost_of(mask.actions) <= fitting.budget.cost_of(fitting.before.actions)
    assert mask.provenance == fitting.before.provenance


@pytest.mark.slow
def test_the_first_step_goes_down_the_slope_of_every_gain():
    """Adam's first step moves each by the full rate, against the sign of its derivative."""
    fitting = Fitting(trained, fora(trained(), STEPS, 2, forecast="linear"), 10**6)
    fitting.step()
    moved = fitting.fit.mask.gains - 1
    cells = np.argwhere(np.abs(moved) > 0.05)
    assert len(cells) == fitting.fit.num_gains
    for row, site in np.random.default_rng(0).permutation(cells)[:4]:
        errors = []
        for change in (0.05, -0.05):
            gains = np.ones(moved.shape)
            gains[row, site] += change
            errors.append(fitting.error_db(fitting.before.with_actions(fitting.before.actions, gains=gains)))
        assert np.sign(errors[1] - errors[0]) == np.sign(moved[row, site])


@pytest.mark.slow
def test_the_first_step_goes_down_the_slopes_of_channels():
    """All channels of a site together: of one alone hardly anything is seen."""
    fitting = Fitting(trained, fora(trained(), STEPS, 2, forecast="linear"), 10**6)
    before = fitting.step()
    moved = fitting.fit.mask.channel_gains
    assert all(np.isin(np.round(np.abs(vector - 1), 3), (0, 0.033)).all() for vector in moved.values())
    forecasts = fitting.before.forecast.any(0)
    assert list(moved) == [site for site, some in zip(fitting.before.sites, forecasts, strict=True) if some]
    actions = fitting.before.actions
    for site in (*list(moved)[:1], *list(moved)[-1:]):
        small = {site: 1 + (moved[site] - 1) / 2}
        assert fitting.error_db(fitting.before.with_actions(actions, channel_gains=small)) < before


def test_channels_may_go_without_gains():
    fitting = Fitting(trained, fora(trained(), STEPS, 2, forecast="linear"), 4, channel_gains=False)
    fitting.step()
    assert fitting.fit.mask.gains is not None and fitting.fit.mask.channel_gains is None


@pytest.mark.slow
def test_whole_steps_that_cost_a_little_too_much_are_brought_to_the_target():
    """Four of eight steps of the DiT cost 0.506."""
    config = EndToEnd(gains=6, rounds=0, num_probes=2, num_validation=3)
    search = EndToEndLearning(job_for(trained(), 8, config, target_macs=0.5, call_kwargs=GUIDED)).search
    search._begin([0.5])
    list(search._learn_gains(0.5))
    *_, dear, shaved = search.candidates.values()
    assert 0.5 < dear.cost < 0.52 and dear.made_by == "key_steps 4 steps linear, gains"
    assert shaved.cost <= 0.5 and shaved.made_by == "round 0, gains" and search.best(0.5) is shaved


@pytest.mark.slow
def test_tables_with_learned_gains_are_not_searched_on():
    config = EndToEnd(gains=12, rounds=1, num_probes=1, num_validation=3, num_moves=0, shrink=0.3)
    learning = EndToEndLearning(job_for(trained(), STEPS, config, targets=(0.6, 0.5), call_kwargs=GUIDED))
    search, probed, probe = learning.search, [], learning.judge.probe
    learning.judge.probe = lambda table, number: probed.append(table) or probe(table, number)
    list(search.run(learning.targets))
    fitted = [candidate.table for candidate in search.candidates.values() if candidate.fitted]
    assert len(fitted) >= 2 and all(search.best(target).table.gains is not None for target in (0.6, 0.5))
    assert all(table.gains is None or table in fitted for table in probed)
    assert sum(table.gains is not None for table in probed) <= 2, "what costs a little too much, once at each target"


@pytest.mark.slow
def test_gains_for_a_schedule():
    pipe = trained()
    schedule = fora(pipe, STEPS, 2, forecast="linear")
    mask = fit_gains(pipe, schedule, iterations=6, seed=1)
    before, after = (stepmask.evaluate(pipe, one, seeds=2, speed=False).psnr.mean for one in (schedule, mask))
    assert after > before + 1, "on noise that the fit has not seen"
