"""An interrupted search goes on to the same mask from what it has measured; what may change meanwhile, and what not."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from jobs import Stop, stop_after
from stepmask import StepMaskError, learn
from stepmask.inspection.registry import denoiser_of
from tiny import ddpm_pipeline, dit_pipeline

STEPS, TARGET = 4, 0.7
QUICK = {
    "rounds": 1, "gains": 1, "num_probes": 1, "num_validation": 3, "num_held_back": 2, "num_moves": 1,
    "shrink": 0.35, "progress": False,
}  # fmt: skip
FULL_RUNS = 3 * STEPS
"""Calls of the references that PSNRs are taken against: they are made anew."""


def count_calls(pipe) -> list:
    calls = []
    denoiser_of(pipe).register_forward_pre_hook(lambda *args: calls.append(1))
    return calls


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The file of a finished search, and its mask."""
    path = tmp_path_factory.mktemp("finished") / "state"
    return path, learn(dit_pipeline(), STEPS, TARGET, resume=path, **QUICK)


@pytest.fixture
def state(finished, tmp_path):
    """A copy of that file."""
    return shutil.copy(finished[0], tmp_path / "state")


@pytest.mark.parametrize("make", [pytest.param(ddpm_pipeline, marks=pytest.mark.slow), dit_pipeline])
def test_an_interrupted_search_goes_on_to_the_same_mask(make, tmp_path):
    pipe, until = make(), []
    calls = count_calls(pipe)
    expected = learn(pipe, STEPS, TARGET, callback=lambda report: until.append(len(calls)), **QUICK)
    all_calls = len(calls)
    assert len(until) >= 2
    number = len(until) // 2 if make is dit_pipeline else 0
    pipe, path = make(), tmp_path / "state"
    calls = count_calls(pipe)
    with pytest.raises(Stop):
        learn(pipe, STEPS, TARGET, resume=path, callback=stop_after(number + 1), **QUICK)
    assert len(calls) == until[number]
    calls.clear()
    assert learn(pipe, STEPS, TARGET, resume=str(path), **QUICK) == expected
    assert len(calls) <= all_calls - until[number] + FULL_RUNS


def test_a_finished_search_gives_its_mask_again(finished, state):
    pipe = dit_pipeline()
    calls, before = count_calls(pipe), load_file(state)
    assert learn(pipe, STEPS, TARGET, resume=state, **QUICK) == finished[1] and len(calls) == 0
    after = load_file(state)
    assert all(np.array_equal(array, after[name]) for name, array in before.items())


def test_it_may_go_on_with_other_images_and_elsewhere(finished, state):
    """Held-back images and where values wait say nothing about the way of the search, and may be what it broke on."""
    pipe = dit_pipeline()
    calls = count_calls(pipe)
    other = {"num_held_back": 7, "offload": True, "images_per_call": 1, "graph_bytes": 0}
    again = learn(pipe, STEPS, TARGET, resume=state, **{**QUICK, **other})
    assert np.array_equal(again.actions, finished[1].actions) and again.provenance["psnr"]["held_back_images"] == 7
    assert len(calls) == 2 * STEPS * 7, "full and masked, one image after the other"


@pytest.mark.parametrize(("make", "changed", "says"), [
    (partial(dit_pipeline, seed=1), {}, "weights was"),
    (dit_pipeline, {"num_inference_steps": 3}, "num_inference_steps was 4, now 3"),
    (dit_pipeline, {"target_macs": 0.8}, r"goals\.target_macs was 0\.7, now 0\.8"),
    (dit_pipeline, {"target_speedup": 1.2}, r"goals\.target_speedup was None, now 1\.2"),
    (dit_pipeline, {"speed_batch_size": 4}, r"config\.speed_batch_size was 16, now 4"),
    (dit_pipeline, {"seed": 1}, "seed was 0, now 1"),
    (dit_pipeline, {"forecast": False}, r"config\.forecast was True, now False"),
    (dit_pipeline, {"call_kwargs": {"guidance_scale": 2.0}}, r"call_kwargs\.guidance_scale was None, now 2\.0"),
    (dit_pipeline, {"method": "paper"}, "method was 'end-to-end', now 'paper'"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_the_state_of_another_run_is_refused_and_kept(make, changed, says, state):
    content = state.read_bytes()
    options = {"num_inference_steps": STEPS, "target_macs": TARGET, **QUICK, **changed}
    if "method" in changed:
        options = {name: value for name, value in options.items() if name not in QUICK}
    with pytest.raises(StepMaskError, match=rf"belongs to another run \(.*{says}.*delete it to begin anew"):
        learn(make(), resume=state, **options)
    assert state.read_bytes() == content


def brightness(images):
    return images.mean(1, keepdim=True)


def test_a_search_with_an_objective_goes_on_in_another_process(tmp_path):
    """Where the function lies in memory is not what tells it from another; what it makes is."""
    path, pipe, options = tmp_path / "state", dit_pipeline(), {**QUICK, "rounds": 0, "num_moves": 0}
    mask = learn(pipe, 3, 0.8, objective=partial(brightness), resume=path, **options)
    calls = count_calls(pipe)
    assert learn(pipe, 3, 0.8, objective=partial(brightness), resume=path, **options) == mask
    assert len(calls) == 3, "one full run, to see that the objective does what it did"
    with pytest.raises(StepMaskError, match="belongs to another run"):
        learn(pipe, 3, 0.8, objective=torch.abs, resume=path, **options)

    def brightness_of_a_corner(images):
        return images[..., :3, :3].mean(1, keepdim=True)

    brightness_of_a_corner.__qualname__ = "brightness"
    with pytest.raises(StepMaskError, match="the search that is resumed had another objective"):
        learn(pipe, 3, 0.8, objective=brightness_of_a_corner, resume=path, **options)
