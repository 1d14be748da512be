"""Gains of forecasts: fitted by gradients they bring images closer, cost nothing, and travel with the mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import stepmask
from stepmask import MaskMismatchError, State, describe, learn, make_plan, measure_cost
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import fit_gains
from stepmask.learning.budget import Budget
from stepmask.learning.end_to_end.config import GlobalConfig
from stepmask.learning.end_to_end.gradients.gains import GainFit
from stepmask.learning.end_to_end.learner import Asked, Selecting
from stepmask.learning.end_to_end.measurement.judge import LEAST_PROBES, PROBES
from stepmask.learning.end_to_end.search.selection import settle
from stepmask.learning.end_to_end.tables import Table
from stepmask.learning.interception import frozen
from stepmask.mask import Action
from stepmask.runtime.noise import Noise
from stepmask.schedules import fora, key_steps
from stepmask_lab import reference
from tiny import dit_pipeline

STEPS = 6
QUICK = {
    "rounds": 1,
    "num_probes": 2,
    "num_validation": 3,
    "num_held_back": 2,
    "num_moves": 0,
    "shrink": 0.3,
    "progress": False,
}


class Fitting:
    """A fit on two images of one pipeline."""

    def __init__(self, make, mask, iterations: int, **options) -> None:
        self.pipe = make()
        self.budget = Budget(describe(self.pipe), measure_cost(self.pipe))
        self.noise = Noise(self.pipe, mask.num_rows, 0)
        self.before = settle(mask, self.budget)
        self.fit = GainFit(self.before, self.budget, iterations, **options)
        with frozen(denoiser_of(self.pipe)):
            self.target = self.noise.latents(0, 2)

    def step(self) -> float:
        return self.fit.step(self.pipe, [(lambda: self.noise.latents(0, 2), self.target)])

    def error_db(self, mask) -> float:
        """As `step` reports it, by plain runs."""
        with stepmask.apply(self.pipe, make_plan(mask, self.budget.graph)):
            error = self.noise.latents(0, 2) - self.target
        return float(10 * error.flatten(1).double().square().mean(1).log10().mean())


def trained():
    return reference.load("dit-cifar10")


@pytest.mark.parametrize("forecast", ["linear", None])
def test_images_come_closer_at_the_same_cost(forecast):
    """On a trained model: what random weights make of noise hardly depends on a step."""
    fitting = Fitting(trained, fora(trained(), STEPS, 2, forecast=forecast), 6)
    first, *_, last = [fitting.step() for _ in range(6)]
    mask = fitting.fit.mask
    assert last < first - 1 and fitting.error_db(mask) < first - 1
    assert mask.gains is not None and mask.channel_gains and not mask.is_binary
    assert np.array_equal(mask.compute, fitting.before.compute)
    assert fitting.budget.cost_of(mask.actions) <= fitting.budget.cost_of(fitting.before.actions)
    assert mask.provenance == fitting.before.provenance


def test_images_one_after_the_other_are_images_at_once():
    one, two = (Fitting(dit_pipeline, fora(dit_pipeline(), STEPS, 2, forecast="linear"), 4) for _ in range(2))
    batches = [(lambda i=i: two.noise.latents(i, 1), two.target[i : i + 1]) for i in range(2)]
    assert two.fit.step(two.pipe, batches) == pytest.approx(one.step(), abs=1e-3)
    np.testing.assert_allclose(two.fit.mask.gains, one.fit.mask.gains, atol=1e-3)


def test_what_is_reported_is_the_error_of_the_mask():
    fitting = Fitting(dit_pipeline, fora(dit_pipeline(), STEPS, 2, forecast="linear"), 4)
    assert fitting.step() == pytest.approx(fitting.error_db(fitting.before), abs=1e-3)
    moved = fitting.fit.mask
    assert fitting.step() == pytest.approx(fitting.error_db(moved), abs=1e-2)


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


def test_channels_may_go_without():
    fitting = Fitting(trained, fora(trained(), STEPS, 2, forecast="linear"), 4, by_channel=False)
    fitting.step()
    assert fitting.fit.mask.gains is not None and fitting.fit.mask.channel_gains is None
    pipe = dit_pipeline()
    options = {"iterations": 2, "channel_gains": False}
    assert fit_gains(pipe, fora(pipe, STEPS, 2, forecast="linear"), **options).channel_gains is None
    assert learn(dit_pipeline(), STEPS, 0.5, gains=6, channel_gains=False, **QUICK).channel_gains is None


def test_what_holds_begins_at_gain_0_and_holds_again_if_it_stays_there():
    fitting = Fitting(dit_pipeline, fora(dit_pipeline(), STEPS, 3), 5)
    assert fitting.fit.num_gains > 0, "with two values it may forecast"
    assert fitting.fit.mask.actions.tolist() == fitting.before.actions.tolist(), (
        "before the first step nothing has changed"
    )
    assert fitting.error_db(fitting.fit.mask) == fitting.error_db(fitting.before)
    fitting.step()
    assert not fitting.fit.mask.is_binary


def test_a_limit_of_the_cache_keeps_holds_as_they_are():
    fitting = Fitting(dit_pipeline, fora(dit_pipeline(), STEPS, 3), 5, fits=lambda actions: False)
    assert fitting.fit.num_gains == 0


def test_nothing_to_learn():
    assert Fitting(dit_pipeline, key_steps(dit_pipeline(), STEPS, [0]), 5).fit.num_gains == 0


def test_learned_masks_have_gains_unless_told_otherwise(tmp_path):
    mask = learn(dit_pipeline(), STEPS, 0.6, gains=4, resume=tmp_path / "state", **QUICK)
    assert mask.provenance["config"]["gains"] == 4
    again = learn(dit_pipeline(), STEPS, 0.6, gains=4, resume=tmp_path / "state", **QUICK)
    assert again == mask, "all of it from the file"
    mask.save(tmp_path / "mask.json")
    assert stepmask.StepMask.load(tmp_path / "mask.json") == mask
    assert learn(dit_pipeline(), STEPS, 0.8, gains=0, **QUICK).gains is None
    assert learn(dit_pipeline(), STEPS, 0.8, gains=4, forecast=False, **QUICK).is_binary


@pytest.mark.slow
def test_whole_steps_that_cost_a_little_too_much_are_brought_to_the_target():
    """Four of eight steps of the DiT cost 0.506."""
    config = GlobalConfig(gains=6, rounds=0, num_probes=2, num_validation=3)
    selecting = Selecting(trained(), 8, Asked(target_macs=0.5), 0, {"guidance_scale": 2.5}, config, None)
    search = selecting.search
    search._begin([0.5])
    list(search._learn_gains(0.5))
    *_, dear, shaved = search.candidates.values()
    assert 0.5 < dear.cost < 0.52 and dear.made_by == "key_steps 4 steps linear, gains"
    assert shaved.cost <= 0.5 and shaved.made_by == "round 0, gains" and search.best(0.5) is shaved


@pytest.mark.slow
def test_tables_with_learned_gains_are_not_searched_on():
    config = GlobalConfig(gains=12, rounds=1, num_probes=1, num_validation=3, num_moves=0, shrink=0.3)
    selecting = Selecting(trained(), STEPS, Asked(targets=(0.6, 0.5)), 0, {"guidance_scale": 2.5}, config, None)
    search, probed = selecting.search, []
    probe = selecting.judge.probe
    selecting.judge.probe = lambda table, number: probed.append(table) or probe(table, number)
    list(search.run(selecting.targets))
    fitted = [candidate.table for candidate in search.candidates.values() if candidate.fitted]
    assert len(fitted) >= 2 and all(search.best(target).table.gains is not None for target in (0.6, 0.5))
    assert all(table.gains is None or table in fitted for table in probed)
    assert sum(table.gains is not None for table in probed) <= 2, "what costs a little too much, once at each target"


def test_gains_that_are_there_go_on_with_half_of_the_iterations(monkeypatch):
    steps = []
    monkeypatch.setattr(GainFit, "step", lambda self, *_: steps.append(self._rate))
    pipe = dit_pipeline()
    mask = fora(pipe, STEPS, 2, forecast="linear")
    fit_gains(pipe, mask, iterations=5)
    cold = list(steps)
    fit_gains(pipe, mask.with_actions(mask.actions, gains=np.full(mask.actions.shape, 1.5)), iterations=5)
    warm = steps[len(cold) :]
    assert len(cold) == 5 and len(warm) == 3 and max(warm) < min(cold)
    channels = {mask.sites[0]: np.full(16, 1.5)}
    fit_gains(pipe, mask.with_actions(mask.actions, channel_gains=channels), iterations=5)
    assert steps[len(cold) + len(warm) :] == warm


def test_gains_are_learned_where_the_full_run_has_been(monkeypatch):
    """On the noise of the probes, so that each iteration takes one run, of the mask."""
    config = GlobalConfig(gains=6, num_probes=2, num_validation=3)
    selecting = Selecting(dit_pipeline(), STEPS, Asked(target_macs=0.6), 0, {}, config, None)
    judge, table = selecting.judge, Table.of(fora(dit_pipeline(), STEPS, 2, forecast="linear"), selecting.budget)
    for number in range(3):
        judge.probe(table, number)
    runs, latents = [], Noise.latents
    monkeypatch.setattr(Noise, "latents", lambda self, *part: runs.append(part[:2]) or latents(self, *part))
    assert judge.with_gains(table, 6, lambda actions: True, 3).has_gains
    assert runs == [(PROBES + image, 1) for image in range(6)]
    assert LEAST_PROBES > 3, "so that the next two are made"
    judge.with_gains(table, 8, lambda actions: True, 3)
    assert runs[6:] == [(PROBES + image, 1) for image in (0, 1, 2, 3, 4, 5, 6, 6, 7, 7)]


def test_gains_for_a_schedule():
    pipe = trained()
    schedule = fora(pipe, STEPS, 2, forecast="linear")
    mask = fit_gains(pipe, schedule, iterations=6, seed=1)
    assert mask.gains is not None and mask.provenance["method"] == "fora" and mask.graph == schedule.graph
    assert mask.provenance["gains"] == {"iterations": 6, "seed": 1}
    assert mask.provenance["denoiser_calls"] == 12 * STEPS, "full runs, and runs whose graph is kept"
    cost, graph = measure_cost(pipe), describe(pipe)
    assert cost.fraction(make_plan(mask, graph)) == cost.fraction(make_plan(schedule, graph))
    before, after = (stepmask.evaluate(pipe, one, seeds=4, speed=False).psnr.mean for one in (schedule, mask))
    assert after > before + 1, "on noise that the fit has not seen"
    with pytest.raises(MaskMismatchError, match="rows"):
        fit_gains(pipe, replace(schedule, provenance={"num_inference_steps": STEPS + 1}))


def test_a_run_in_the_pipeline_uses_them():
    """Gain 0 is a hold, and a gain of 2 over one step is a line over two."""
    pipe = dit_pipeline()
    mask = fora(pipe, STEPS, 2, forecast="linear")
    flat = mask.with_actions(mask.actions, gains=np.where(mask.forecast, 0.0, 1.0))
    holding = mask.with_actions(np.where(mask.forecast, Action.hold, mask.actions))
    images = []
    for one in (flat, holding, mask):
        with stepmask.apply(pipe, one) as run:
            call = {"class_labels": [1], "num_inference_steps": STEPS, "output_type": "pt"}
            images.append(torch.as_tensor(pipe(generator=torch.Generator().manual_seed(0), **call).images))
            assert one is holding or run.summary().forecasts > 0
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(images[1], images[2])
    assert (make_plan(flat, describe(pipe)).states == State.forecast).any()
