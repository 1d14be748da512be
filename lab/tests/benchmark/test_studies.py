"""Variants of learned masks: each learns for its budget, by its objective or from its start."""

import pytest
import torch

from stepmask import describe, make_plan, measure_cost
from stepmask.schedules import key_steps
from stepmask_lab.benchmark import Subject, methods, methods_by_name
from stepmask_lab.benchmark.naming import short_name
from stepmask_lab.benchmark.studies import features_of, pictures, study_methods
from tiny import ddim_pipeline, dit_pipeline

STUDIES = {short_name(method): method for method in study_methods()}
FIRST = ("end-to-end-alone", "end-to-end-from-smoothcache", "end-to-end-by-pictures")
"""One of each kind."""
STEPS = 4


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(methods, "LEARNING", {"rounds": 0, "gains": 1})
    monkeypatch.setattr(methods, "TRAJECTORIES", 2)
    monkeypatch.setattr(methods, "LEARNED_RIVALS", {"DiP-GO": ("dip-go", 0.6, {"iterations": 2})})


def test_gains_of_key_steps():
    pipe = dit_pipeline()
    method, subject = STUDIES["end-to-end-gains-of-key-steps"], Subject(pipe, 8, targets=(0.6,))
    assert method.settings(subject) == ["5"]
    mask = method.make(subject, "5", 0)
    plain = key_steps(pipe, 8, 5)
    assert set(mask.weights) == set(plain.sites) and mask.provenance["steps"] == plain.provenance["steps"]
    cost, graph = measure_cost(pipe), describe(pipe)
    assert cost.fraction(make_plan(mask, graph)) == pytest.approx(cost.fraction(make_plan(plain, graph)))


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in STUDIES if "-gains-" not in name
])  # fmt: skip
def test_each_keeps_to_its_budget(name):
    pipe, method = dit_pipeline(), STUDIES[name]
    subject = Subject(pipe, STEPS, targets=(0.6,))
    assert method.settings(subject) == ["0.6"] and method.fits(subject) is None
    mask = method.make(subject, "0.6", 0)
    assert measure_cost(pipe).fraction(make_plan(mask, describe(pipe))) <= 0.6
    assert ("started_from_masks" in mask.provenance) == ("-from-" in name)
    assert (mask.provenance["config"]["objective"] == "given") == ("-by-" in name)


@pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline])
def test_objectives_see_pictures_and_let_gradients_through(make):
    pipe = make()
    shape = (2, 3, 8, 8) if make is ddim_pipeline else (2, pipe.vae.config.latent_channels, 4, 4)
    latents = torch.rand(shape, requires_grad=True)
    assert pictures(pipe, latents).shape[:2] == (2, 3)
    if make is ddim_pipeline:
        assert pictures(pipe, latents) is latents
    features = features_of(pipe)(latents)
    assert features.dim() == 2 and len(features) == 2
    features.sum().backward()
    assert latents.grad.abs().sum() > 0


def test_the_command_line_knows_them_by_name_and_together():
    assert [short_name(method) for method in methods_by_name("studies")] == list(STUDIES)
    (one,) = methods_by_name("end-to-end-from-smoothcache")
    assert one.name == "end-to-end, from SmoothCache"
    assert not {method.name for method in methods_by_name()} & {method.name for method in STUDIES.values()}
