"""An interrupted learning run goes on to the very same mask; files that do not belong are refused and left alone."""

from __future__ import annotations

import pytest
import torch
from stepmask.learning.per_step.state import LearnerState, adam_step

from stepmask import StepMaskError, learn
from stepmask.learning import LearnConfig
from stepmask.learning.paper.learner import _Learner
from tiny import ddim_pipeline, dit_pipeline, generator

STEPS = 4
QUICK = {"method": "per-step", "num_trajectories": 5, "batch_size": 2, "progress": False}


class Stop(Exception):
    pass


def stop_after(count: int):
    def callback(report):
        if report.trajectory == count:
            raise Stop

    return callback


VARIANTS = {
    "default": {},
    "penalty": {"sparsity": "penalty", "scale_loss": True, "sparse_weights": "plan"},
    "gumbel": {"sampling": "gumbel"},
}


@pytest.mark.parametrize(("variant", "done"), [("default", 1), ("default", 5), ("penalty", 3), ("gumbel", 3)])
def test_an_interrupted_run_goes_on_to_the_same_mask(tmp_path, variant, done):
    options = {**QUICK, **VARIANTS[variant]}
    expected = learn(dit_pipeline(), STEPS, 0.6, **options)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stop):
        learn(dit_pipeline(), STEPS, 0.6, resume=path, callback=stop_after(done), **options)
    seen = []
    mask = learn(dit_pipeline(), STEPS, 0.6, resume=str(path), callback=seen.append, **options)
    assert mask == expected
    assert [report.trajectory for report in seen] == list(range(done + 1, 6))


def test_interrupted_twice_in_mid_run_on_a_unet(tmp_path, monkeypatch):
    expected = learn(ddim_pipeline(), STEPS, 0.6, sparsity="projection", **QUICK)
    path = tmp_path / "state.safetensors"
    for calls_until in (14, 30):  # calls of the denoiser, in the middle of a trajectory
        pipe, calls = ddim_pipeline(), []

        def count(module, args, calls=calls, limit=calls_until):
            calls.append(1)
            if len(calls) > limit:
                raise Stop

        pipe.unet.conv_in.register_forward_pre_hook(count)
        with pytest.raises(Stop):
            learn(pipe, STEPS, 0.6, resume=path, sparsity="projection", **QUICK)
    state = LearnerState.load(path, {})
    assert 0 < state.trajectory < 5
    assert learn(ddim_pipeline(), STEPS, 0.6, resume=path, sparsity="projection", **QUICK) == expected


def test_a_finished_run_gives_its_mask_again(tmp_path):
    path = tmp_path / "state.safetensors"
    mask = learn(dit_pipeline(), STEPS, 0.6, resume=path, **QUICK)
    content = path.read_bytes()
    assert learn(dit_pipeline(), STEPS, 0.6, resume=path, callback=stop_after(1), **QUICK) == mask
    assert path.read_bytes() == content


def test_a_fresh_file_is_written_before_the_first_trajectory(tmp_path):
    path, pipe = tmp_path / "state.safetensors", dit_pipeline()
    with pytest.raises(Stop):
        learn(pipe, STEPS, 0.6, resume=path, callback=stop_after(1), **QUICK)
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"], "no temporary file is left"


OTHERS = {
    "seed": (dit_pipeline, STEPS, 0.6, {"seed": 1}, "seed was 0, now 1"),
    "target": (dit_pipeline, STEPS, 0.7, {}, r"target_macs was 0\.6, now 0\.7"),
    "steps": (dit_pipeline, STEPS + 1, 0.6, {}, "num_inference_steps was 4, now 5"),
    "option": (dit_pipeline, STEPS, 0.6, {"credit_steps": 1}, r"config\.credit_steps was 4, now 1"),
    "model": (ddim_pipeline, STEPS, 0.6, {}, "graph was"),
    "guidance": (
        dit_pipeline,
        STEPS,
        0.6,
        {"call_kwargs": {"guidance_scale": 2.0}},
        r"call_kwargs\.guidance_scale was None, now 2\.0",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_state_of_another_run_is_refused(tmp_path, what):
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stop):
        learn(dit_pipeline(), STEPS, 0.6, resume=path, callback=stop_after(1), **QUICK)
    content = path.read_bytes()
    make, steps, target, options, message = OTHERS[what]
    with pytest.raises(StepMaskError, match=rf"belongs to another learning run \(.*{message}"):
        learn(make(), steps, target, resume=path, **{**QUICK, **options})
    assert path.read_bytes() == content, "nothing is lost"


def test_another_guidance_scale_is_another_run(tmp_path):
    path = tmp_path / "state.safetensors"
    options = {**QUICK, "call_kwargs": {"guidance_scale": 2.0}}
    with pytest.raises(Stop):
        learn(dit_pipeline(), STEPS, 0.6, resume=path, callback=stop_after(1), **options)
    with pytest.raises(StepMaskError, match="belongs to another learning run"):
        learn(dit_pipeline(), STEPS, 0.6, resume=path, **{**QUICK, "call_kwargs": {"guidance_scale": 3.0}})


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign"])
def test_a_damaged_state_is_refused_and_kept(tmp_path, damage):
    path = tmp_path / "state.safetensors"
    if damage == "truncated":
        with pytest.raises(Stop):
            learn(dit_pipeline(), STEPS, 0.6, resume=path, callback=stop_after(1), **QUICK)
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "foreign":
        import safetensors.torch

        safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"not a state " * 20)
    content = path.read_bytes()
    with pytest.raises(StepMaskError, match=r"is no state of an interrupted learning run .*delete it to begin anew"):
        learn(dit_pipeline(), STEPS, 0.6, resume=path, **QUICK)
    assert path.read_bytes() == content


def test_a_folder_as_state(tmp_path):
    with pytest.raises(StepMaskError, match="is no state of an interrupted"):
        learn(dit_pipeline(), STEPS, 0.6, resume=tmp_path, **QUICK)


def test_a_path_that_cannot_be_written_is_told_early(tmp_path):
    seen = []
    with pytest.raises(StepMaskError, match=r"cannot write .*state.*choose a file in a folder"):
        learn(dit_pipeline(), STEPS, 0.6, resume=tmp_path / "nowhere" / "state", callback=seen.append, **QUICK)
    assert not seen and not list(tmp_path.iterdir())


def test_states_round_trip(tmp_path):
    state = LearnerState({"a": torch.rand(2, 3, generator=generator())}, 7, 0.125, [(0.5, 0.75), (0.25, 0.5)])
    identity = {"config": {"x": 1.5}, "call_kwargs": ("a", "b")}
    state.save(tmp_path / "state", identity)
    loaded = LearnerState.load(tmp_path / "state", identity)
    assert (loaded.trajectory, loaded.lambda_sparse, loaded.history) == (7, 0.125, state.history)
    assert torch.equal(loaded.tensors["a"], state.tensors["a"])


def test_adam_is_torchs():
    values = torch.rand(3, 4, generator=generator(), dtype=torch.float64)
    parameter = values.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=0.1, betas=(0.8, 0.95), eps=1e-12)
    state = LearnerState()
    for step in range(4):
        gradient = torch.randn(3, 4, generator=generator(step), dtype=torch.float64)
        parameter.grad = gradient
        optimizer.step()
        values = adam_step(values, gradient, state, 0.1)
        state.trajectory += 1
        assert torch.allclose(values, parameter.detach(), rtol=1e-9)


def test_a_config_survives_json():
    assert LearnConfig(**dict(LearnConfig.paper().__dict__)) == LearnConfig.paper()


def test_calls_of_a_run_that_is_interrupted_before_its_first_trajectory_count(tmp_path, monkeypatch):
    """Calibration is over then; the full run's images, which exchanges are judged by, are made again."""
    expected = learn(dit_pipeline(), STEPS, 0.6, **QUICK).provenance["denoiser_calls"]

    def stop(self, state):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(_Learner, "run_trajectory", stop)
        learn(dit_pipeline(), STEPS, 0.6, resume=tmp_path / "state", **QUICK)
    resumed = learn(dit_pipeline(), STEPS, 0.6, resume=tmp_path / "state", **QUICK)
    assert expected <= resumed.provenance["denoiser_calls"] <= expected + 2 * STEPS
