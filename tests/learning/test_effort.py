"""What masks say they took: as many denoiser calls as were made, for every method, over all sessions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fakes import assert_unchanged, snapshot
from stepmask import learn, learn_family
from stepmask.inspection.registry import denoiser_of
from stepmask.learning.effort import Effort
from stepmask.schedules import fora
from stepmask_lab.rivals import block_caching, ditfastattn, fit_scale_shift, smoothcache
from tiny import dit_pipeline

STEPS = 4
QUIET = {"num_inference_steps": STEPS, "progress": False}
LEARNED = {
    "global": {"rounds": 0, "gains": 1, "num_probes": 1, "num_validation": 3, "num_held_back": 2},
    "per-step": {"num_trajectories": 2, "batch_size": 1},
    "paper": {"num_trajectories": 2, "batch_size": 1},
    "harmonica": {"num_trajectories": 2, "batch_size": 1},
    "l2c": {"num_trajectories": 2, "batch_size": 1},
    "ecad": {"population": 6, "generations": 1, "num_calibration": 1, "num_checked": 1},
    "dip-go": {"iterations": 2, "chain_images": 1},
}
CALIBRATED = {
    "smoothcache": lambda pipe: smoothcache(pipe, STEPS, threshold=0.1, num_images=1),
    "block_caching": lambda pipe: block_caching(pipe, STEPS, threshold=0.1, num_images=1),
    "ditfastattn": lambda pipe: ditfastattn(pipe, STEPS, num_images=1),
    "scale_shift": lambda pipe: fit_scale_shift(pipe, fora(pipe, STEPS, 2), num_images=1).mask,
}


def counted(pipe, monkeypatch) -> list[int]:
    """Gets an entry for every forward pass of the denoiser, by its class, where nothing of stepmask is."""
    calls, kind = [], type(denoiser_of(pipe))
    plain = kind.forward

    def forward(self, *args, **kwargs):
        if self is denoiser_of(pipe):  # not its twin on the meta device
            calls.append(1)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)
    return calls


@pytest.mark.parametrize("method", [*LEARNED, *CALIBRATED])
def test_a_mask_says_how_many_calls_it_took(method, monkeypatch):
    pipe = dit_pipeline()
    calls, before = counted(pipe, monkeypatch), snapshot(denoiser_of(pipe))
    if method in LEARNED:
        record = learn(pipe, target_macs=0.8, method=method, **QUIET, **LEARNED[method]).provenance
    else:
        record = CALIBRATED[method](pipe).provenance
    assert record["denoiser_calls"] == len(calls) > STEPS - 1 and record["seconds"] > 0
    assert_unchanged(denoiser_of(pipe), before)
    assert json.loads(json.dumps(record)) == record


def test_every_member_of_a_family_says_what_the_whole_pass_took(monkeypatch):
    pipe = dit_pipeline()
    calls = counted(pipe, monkeypatch)
    family = learn_family(pipe, targets=(0.8, 0.6), **QUIET, **LEARNED["global"])
    assert {member.mask.provenance["denoiser_calls"] for member in family} == {len(calls)}


@pytest.mark.parametrize("method", ["global", "paper", "ecad", "dip-go"])
def test_sessions_add_up(method, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(report):
        raise Stop

    pipe, state = dit_pipeline(), tmp_path / "state"
    options = {"target_macs": 0.8, "method": method, "resume": state, **QUIET, **LEARNED[method]}
    calls = counted(pipe, monkeypatch)
    with pytest.raises(Stop):
        learn(pipe, callback=stop, **options)
    first = len(calls)
    assert learn(pipe, **options).provenance["denoiser_calls"] == len(calls) > first


def test_a_search_that_goes_through_its_state_again_adds_what_it_takes(tmp_path):
    options = {"target_macs": 0.8, "resume": tmp_path / "state", **QUIET, **LEARNED["global"]}
    first, again = (learn(dit_pipeline(), **options).provenance for _ in range(2))
    assert first["denoiser_calls"] <= again["denoiser_calls"] < 2 * first["denoiser_calls"]
    assert again["seconds"] > first["seconds"] > 0


def test_what_a_mask_took_does_not_make_it_another_mask():
    mask = block_caching(dit_pipeline(), STEPS, threshold=0.1, num_images=1)
    longer = replace(mask, provenance={**mask.provenance, "seconds": 99.0, "denoiser_calls": 1000})
    assert longer.provenance != mask.provenance and longer == mask
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
