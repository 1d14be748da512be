"""Gains of forecasts, fitted by gradients of the final images; on trained models see the laboratory's tests."""

import numpy as np
import pytest
import torch

import stepmask
from fitting import Fitting
from jobs import job_for
from stepmask import State, describe, make_plan
from stepmask.learning import EndToEnd
from stepmask.learning.end_to_end.judge import LEAST_PROBES, PROBES
from stepmask.learning.end_to_end.learner import EndToEndLearning
from stepmask.learning.end_to_end.tables import Table
from stepmask.mask import Action
from stepmask.runtime.noise import Noise
from stepmask.schedules import fora, key_steps
from tiny import dit_pipeline

STEPS = 6


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
    fitting = Fitting(dit_pipeline, fora(dit_pipeline(), STEPS, 3), 5, max_cache_bytes=1)
    assert fitting.fit.num_gains == 0


def test_nothing_to_learn():
    assert Fitting(dit_pipeline, key_steps(dit_pipeline(), STEPS, [0]), 5).fit.num_gains == 0


def test_gains_are_learned_where_the_full_run_has_been(monkeypatch):
    """On the noise of the probes, so that each iteration takes one run, of the mask."""
    config = EndToEnd(gains=6, num_probes=2, num_validation=3)
    learning = EndToEndLearning(job_for(dit_pipeline(), STEPS, config, target_macs=0.6))
    judge, table = learning.judge, Table.of(fora(dit_pipeline(), STEPS, 2, forecast="linear"), learning.budget.graph)
    for number in range(3):
        judge.probe(table, number)
    runs, latents = [], Noise.latents
    monkeypatch.setattr(Noise, "latents", lambda self, *part: runs.append(part[:2]) or latents(self, *part))
    assert judge.with_gains(table, 6, 3).has_gains
    assert runs == [(PROBES + image, 1) for image in range(6)]
    assert LEAST_PROBES > 3, "so that the next two are made"
    judge.with_gains(table, 8, 3)
    assert runs[6:] == [*runs[:6], (PROBES + 6, 2), (PROBES + 6, 1), (PROBES + 7, 1)]


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
