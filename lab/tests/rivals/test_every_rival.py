"""What holds for every rival: it counts what it takes, learns where its kind can, and starts from nothing."""

import json

import pytest
import torch

from fakes import assert_unchanged, quantised_pipeline, snapshot
from gate import in_gate
from jobs import Stop, stop_after
from stepmask import StepMaskError, learn, learn_family
from stepmask.inspection.registry import denoiser_of
from stepmask.learning import learners
from stepmask.schedules import fora
from stepmask_lab.rivals import block_caching, ditfastattn, fit_scale_shift, smoothcache
from tiny import dit_pipeline

STEPS = 4
FEW_RUNS = {"num_trajectories": 2, "batch_size": 1}
LEARNED = {
    "harmonica": FEW_RUNS,
    "l2c": FEW_RUNS,
    "ecad": {"population": 6, "generations": 1, "num_calibration": 1, "num_checked": 1},
    "dip-go": {"iterations": 2, "chain_images": 1},
    "budcache": {"annealing": 2, "climbing": 1, "num_calibration": 1},
}
CALIBRATED = {
    "smoothcache": lambda pipe: smoothcache(pipe, STEPS, threshold=0.1, num_images=1),
    "block_caching": lambda pipe: block_caching(pipe, STEPS, threshold=0.1, num_images=1),
    "ditfastattn": lambda pipe: ditfastattn(pipe, STEPS, num_images=1),
    "scale_shift": lambda pipe: fit_scale_shift(pipe, fora(pipe, STEPS, 2), num_images=1).mask,
}


def test_all_are_registered_after_ours():
    assert list(learners())[:2] == ["end-to-end", "paper"] and set(LEARNED) <= set(learners())


@pytest.mark.parametrize("method", [*LEARNED, *CALIBRATED])
def test_a_mask_says_how_many_calls_it_took(method, monkeypatch):
    pipe, calls = dit_pipeline(), []
    kind, plain = type(denoiser_of(pipe)), type(denoiser_of(pipe)).forward

    def forward(self, *args, **kwargs):
        if self is denoiser_of(pipe):  # not its twin on the meta device
            calls.append(1)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)
    before = snapshot(denoiser_of(pipe))
    if method in LEARNED:
        record = learn(pipe, STEPS, 0.8, method=method, progress=False, **LEARNED[method]).provenance
        assert record["asked"] == {"target_macs": 0.8} and record["macs"] <= 0.8
    else:
        record = CALIBRATED[method](pipe).provenance
    assert record["denoiser_calls"] == len(calls) > STEPS - 1 and record["seconds"] > 0
    assert_unchanged(denoiser_of(pipe), before)
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("method", LEARNED)
def test_what_they_cannot_be_asked_for(method):
    for options, what in (
        ({"min_psnr": 30}, "min_psnr"),
        ({"target_macs": 0.5, "max_cache_bytes": 1000}, "max_cache_bytes"),
        ({"target_macs": 0.5, "start": fora(dit_pipeline(), STEPS, 2)}, "start"),
    ):
        with pytest.raises(StepMaskError, match=f"method '{method}' does not know {what}; end-to-end does"):
            learn(dit_pipeline(), STEPS, method=method, **options)
    if method != "ecad":
        with pytest.raises(StepMaskError, match=f"method '{method}' does not know targets; ask end-to-end, ecad"):
            learn_family(dit_pipeline(), STEPS, method=method)


def test_on_a_quantised_model():
    """The search and the calibrated rules need no gradient; the others name the layer."""
    pipe = quantised_pipeline()
    assert smoothcache(pipe, STEPS, target_macs=0.7).num_rows == STEPS
    assert learn(pipe, STEPS, 0.8, method="ecad", progress=False, **LEARNED["ecad"]).num_rows == STEPS
    for method in ("harmonica", "l2c", "dip-go"):
        with pytest.raises(StepMaskError, match=r"is a quantised Linear, .*schedules\.key_steps"):
            learn(pipe, STEPS, 0.8, method=method, progress=False)


@pytest.mark.parametrize("method", in_gate(LEARNED, "l2c", "budcache"))
def test_the_same_seed_the_same_mask_also_after_an_interrupt(method, tmp_path):
    options = {"method": method, "progress": False, **LEARNED[method]}
    pipe, path, state = dit_pipeline(), tmp_path / "state", torch.random.get_rng_state()
    whole = learn(pipe, STEPS, 0.8, **options)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's randomness is used"
    with pytest.raises(Stop):
        learn(pipe, STEPS, 0.8, resume=path, callback=stop_after(1), **options)
    with pytest.raises(StepMaskError, match=r"belongs to another run.*seed was 0, now 1"):
        learn(pipe, STEPS, 0.8, seed=1, resume=path, **options)
    assert learn(dit_pipeline(), STEPS, 0.8, resume=path, **options) == whole
    assert learn(pipe, STEPS, 0.8, seed=1, **options) != whole
