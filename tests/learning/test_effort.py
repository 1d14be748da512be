"""What masks say they took: as many denoiser calls as were made, over all sessions, and the seconds."""

import json
from dataclasses import replace

import pytest

from fakes import assert_unchanged, snapshot
from jobs import Stop, stop_after
from stepmask import fit_gains, learn, learn_family
from stepmask.inspection.registry import denoiser_of
from stepmask.learning.effort import Effort
from stepmask.schedules import fora
from tiny import FEW, dit_pipeline

STEPS = 4
QUIET = {"num_inference_steps": STEPS, "progress": False}
LEARNED = {"end-to-end": {"rounds": 0, **FEW}, "paper": {"num_trajectories": 2, "batch_size": 1}}


@pytest.fixture
def calls(monkeypatch):
    """A pipeline, and a list that gets an entry for every forward pass of its denoiser, where no gate is."""
    pipe, made = dit_pipeline(), []
    kind, plain = type(denoiser_of(pipe)), type(denoiser_of(pipe)).forward

    def forward(self, *args, **kwargs):
        if self is denoiser_of(pipe):  # not its twin on the meta device
            made.append(1)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)
    return pipe, made


@pytest.mark.parametrize("method", LEARNED)
def test_a_mask_says_how_many_calls_it_took_over_all_sessions(method, calls, tmp_path):
    pipe, made = calls
    before, options = snapshot(denoiser_of(pipe)), {"target_macs": 0.8, "method": method, **QUIET, **LEARNED[method]}
    whole = learn(pipe, **options).provenance
    assert whole["denoiser_calls"] == len(made) > STEPS - 1 and whole["seconds"] > 0
    assert_unchanged(denoiser_of(pipe), before)
    assert json.loads(json.dumps(whole)) == whole
    made.clear()
    with pytest.raises(Stop):
        learn(pipe, callback=stop_after(1), resume=tmp_path / "state", **options)
    first = len(made)
    record = learn(pipe, resume=tmp_path / "state", **options).provenance
    assert record["denoiser_calls"] == len(made) > first and record["denoiser_calls"] >= whole["denoiser_calls"]
    again = learn(pipe, resume=tmp_path / "state", **options).provenance
    assert again["denoiser_calls"] == len(made) < 2 * record["denoiser_calls"], "what goes through the state again too"
    assert again["seconds"] > record["seconds"] > 0


def test_every_member_of_a_family_says_what_the_whole_pass_took(calls):
    pipe, made = calls
    family = learn_family(pipe, targets=(0.8, 0.6), **QUIET, **LEARNED["end-to-end"])
    assert {member.mask.provenance["denoiser_calls"] for member in family} == {len(made)}
    assert all(member.mask.provenance["config"]["rounds"] == 0 for member in family)


def test_gains_add_to_what_the_mask_took(calls):
    pipe, made = calls
    schedule = fora(pipe, STEPS, 2, forecast="linear")
    found = fit_gains(pipe, replace(schedule, provenance={**schedule.provenance, "denoiser_calls": 7}), iterations=1)
    assert found.provenance["denoiser_calls"] == 7 + len(made)


def test_what_a_mask_took_does_not_make_it_another_mask():
    mask = fora(dit_pipeline(), STEPS)
    took = {"seconds": 3.0, "denoiser_calls": 9}
    one, longer = (replace(mask, provenance={**mask.provenance, **facts}) for facts in (took, {**took, "seconds": 9.0}))
    assert longer.provenance != one.provenance and longer == one == mask
    assert replace(mask, provenance={**mask.provenance, "seed": 1}) != mask


def test_nothing_is_counted_outside():
    pipe, effort = dit_pipeline(), Effort()
    call = {"class_labels": [3], "num_inference_steps": STEPS}
    with effort.counting(denoiser_of(pipe)):
        pipe(**call)
    pipe(**call)
    assert effort.facts()["denoiser_calls"] == STEPS
    effort.go_on_from({"denoiser_calls": 10, "seconds": 100.0})
    assert effort.facts()["denoiser_calls"] == 10 + STEPS and effort.facts()["seconds"] > 100
