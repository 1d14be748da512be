"""The consistency model: what it is distilled by, against Gaussian data, where the end of every run is known."""

import json

import pytest
import torch
from diffusers import LCMScheduler

from refusal import check_refused
from small import ldm_pipeline
from stepmask_lab import reference
from stepmask_lab.rivals.consistency import student, train
from stepmask_lab.rivals.consistency.loss import clean_sample, distillation_loss, levels
from tiny import ddim_pipeline, quiet

SCHEDULE = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


@pytest.fixture
def scheduler():
    return LCMScheduler(prediction_type="v_prediction", original_inference_steps=25, **SCHEDULE)


def losses(scheduler, **students):
    """Of students, on standard normal samples, whose noisy samples are standard normal at every timestep."""

    def teacher(noisy, timesteps, labels):
        return levels(scheduler, timesteps)[1] * noisy  # the noise that is expected

    x, labels = torch.randn(400, 3, 4, 4), torch.zeros(400, dtype=torch.long)
    loss = distillation_loss(teacher, scheduler)
    return {name: loss(model, x, labels).item() for name, model in students.items()}


def test_who_knows_where_runs_end_errs_least(scheduler):
    def knowing(noisy, timesteps, labels):  # a run from standard normal noise stays where it is
        signal, noise = levels(scheduler, timesteps)
        return (signal - 1) / noise * noisy

    def expecting(noisy, timesteps, labels):  # the clean sample that is expected, as the teacher does
        return torch.zeros_like(noisy)

    torch.manual_seed(0)
    found = losses(scheduler, knowing=knowing, expecting=expecting)
    assert found["knowing"] < 0.1 * found["expecting"]


def test_at_first_the_target_is_what_the_teacher_expects(scheduler):
    def teacher(noisy, timesteps, labels):
        return levels(scheduler, timesteps)[1] * noisy

    def expecting(noisy, timesteps, labels):
        return torch.zeros_like(noisy)

    x, labels = torch.randn(50, 3, 4, 4), torch.zeros(50, dtype=torch.long)
    assert distillation_loss(teacher, scheduler, consistent=False)(expecting, x, labels) < 1e-4


@pytest.mark.parametrize("timestep", [39, 519, 999])
def test_the_clean_sample_is_the_schedulers(scheduler, timestep):
    scheduler.set_timesteps(25)
    noisy, velocity = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    where = torch.full((2,), timestep)
    ours = clean_sample(lambda *inputs: velocity, scheduler, noisy, where, where)
    torch.testing.assert_close(ours, scheduler.step(velocity, timestep, noisy).denoised)


def test_the_students_timesteps_are_those_it_was_trained_at():
    pipe = student.student_of(ddim_pipeline())
    pipe.scheduler.set_timesteps(student.TEACHER_STEPS)
    stride = 1000 // student.TEACHER_STEPS
    assert pipe.scheduler.timesteps.tolist() == list(range(999, 0, -stride))
    assert pipe.scheduler.config.clip_sample == ddim_pipeline().scheduler.config.clip_sample


def test_the_script_goes_on_and_ends_with_weights_that_load(data, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "load", lambda name: quiet(ddim_pipeline()))
    options = {"first_images": 32, "batch_size": 16}
    train.main("tiny", data, tmp_path, images=16, **options)
    start = (tmp_path / "first.safetensors").read_bytes()
    train.main("tiny", data, tmp_path, images=32, **options)
    assert (tmp_path / "first.safetensors").read_bytes() == start
    record = json.loads((tmp_path / "tiny.json").read_text())
    assert record["images_seen"] == 32 and record["images_before"] == 32 and record["teacher_steps"] == 25
    pipe = student.load_student("tiny", tmp_path)
    images = pipe(2, num_inference_steps=1, output_type="pt").images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()
    monkeypatch.setattr(reference, "load", lambda name: ldm_pipeline())
    check_refused("a model of pixels without conditions is wanted", train.main, "ldm", data, tmp_path, images=16)
