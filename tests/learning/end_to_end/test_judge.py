"""Judging tables by the final images: what is broken never wins, and images may be run one after the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs import job_for
from stepmask import StepMaskError, describe, learn
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import EndToEnd
from stepmask.learning.end_to_end.gradients.probe import Probe, _overflow_as_worst
from stepmask.learning.end_to_end.learner import EndToEndLearning
from stepmask.learning.end_to_end.tables import Table
from stepmask.runtime.apply import is_applied
from stepmask.runtime.noise import Noise
from stepmask.schedules import fora
from tiny import FEW, dit_pipeline

STEPS = 4
QUICK = {"rounds": 0, "progress": False, **FEW}


def test_a_table_whose_images_are_broken_never_wins(monkeypatch):
    """As forecasts that overflow in float16 would break them."""
    plain, seen = Noise.images, []

    def images(self, *numbers):
        found = plain(self, *numbers)
        if is_applied(denoiser_of(self.pipe)) and len(seen) < 12:
            seen.append(1)
            return torch.full_like(found, torch.nan)
        return found

    monkeypatch.setattr(Noise, "images", images)
    mask = learn(dit_pipeline(), 5, 0.6, **{**QUICK, "rounds": 1, "shrink": 0.35})
    assert len(seen) == 12 and np.isfinite(mask.provenance["psnr"]["mean"])


def test_a_full_run_that_is_broken_is_refused(monkeypatch):
    plain = Noise.images
    monkeypatch.setattr(Noise, "images", lambda self, *numbers: plain(self, *numbers) / 0)
    with pytest.raises(StepMaskError, match="the full run makes NaN or infinite values"):
        learn(dit_pipeline(), STEPS, 0.6, **QUICK)


def test_images_one_after_the_other_are_judged_as_at_once():
    config = EndToEnd(num_probes=3, num_validation=3, images_per_call=2, coarse=False)
    judges = [
        EndToEndLearning(
            job_for(dit_pipeline(), STEPS, one, target_macs=0.6, call_kwargs={"guidance_scale": 2.0})
        ).judge
        for one in (config, replace(config, images_per_call=None))
    ]
    table = Table.of(fora(dit_pipeline(), STEPS, 2, forecast="linear"), describe(dit_pipeline()).innermost)
    in_parts, at_once = (judge.probe(table, 0) for judge in judges)
    np.testing.assert_allclose(in_parts.linear, at_once.linear, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(in_parts.square, at_once.square, rtol=1e-3)
    assert in_parts.projections.shape == at_once.projections.shape and in_parts.size == at_once.size
    np.testing.assert_allclose(*(judge.psnrs(table) for judge in judges), rtol=1e-3)


def test_effects_that_overflow_are_the_worst():
    effects = np.array([0.0, -2.0, np.nan, np.inf, 0.5])
    assert _overflow_as_worst(effects).tolist() == [0.0, -2.0, 2000.0, 2000.0, 0.5]
    assert _overflow_as_worst(effects[:2]).tolist() == [0.0, -2.0]


@pytest.mark.parametrize(("objective", "words"), [
    (lambda z: None, "a row for each of the 2 images, got None"),
    (lambda z: z.sum(), r"got one of shape \(\)"),
    (lambda z: z.mean(0), r"a row for each of the 2 images, got one of shape \(4, 8, 8\)"),
    (lambda z: z * float("nan"), "makes NaN or infinite values"),
    (lambda z: z * 0, "makes 0 of everything"),
])  # fmt: skip
def test_objectives_that_say_nothing(objective, words):
    with pytest.raises(StepMaskError, match=words):
        learn(dit_pipeline(), STEPS, 0.6, objective=objective, **QUICK)


def test_what_was_measured_is_given_back_in_the_next_process_too(tmp_path, monkeypatch):
    job = job_for(
        dit_pipeline(), STEPS, EndToEnd(num_probes=3, num_validation=3, gains=2, coarse=False), target_macs=0.6
    )
    schedules = [
        fora(job.task.innermost.graph, job.task.timesteps, 2, forecast=forecast) for forecast in ("linear", None)
    ]
    tables = [Table.of(schedule, job.task.innermost.graph) for schedule in schedules]

    def measured() -> list[np.ndarray]:
        judge = EndToEndLearning(replace(job, resume=tmp_path / "state")).judge
        fitted = [judge.with_gains(table, 2, 1) for table in tables]
        probes = [judge.probe(table, 0) for table in tables]
        found = [*vars(probes[0]).values(), *vars(probes[1]).values(), *map(judge.psnrs, tables)]
        found += [array for table in fitted for array in (table.actions, table.gains, *table.channel_gains.values())]
        judge.save()
        return found

    once = measured()
    for name in ("latents", "images"):
        monkeypatch.setattr(Noise, name, lambda *numbers: pytest.fail("it runs again"))
    for before, again in zip(once, measured(), strict=True):
        assert np.array_equal(before, again)


def test_one_plan_probed_in_parts_is_one_probe():
    random, shapes = np.random.default_rng(0), {"square": (2,), "linear": (3, 4, 3, 2), "projections": (3, 4, 3, 2, 1)}
    probe = Probe(size=12, **{name: random.normal(size=shape) for name, shape in shapes.items()})
    both = Probe.of_parts([probe, probe])
    assert both.square.shape == (4,) and both.size == probe.size
    assert np.array_equal(both.linear, np.concatenate([probe.linear] * 2, axis=3))
    assert np.array_equal(both.projections[..., 2:, :], probe.projections)
