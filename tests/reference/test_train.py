"""The training script on 64 made images: checkpoints, going on after a stop, and pipelines that load and sample."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMPipeline, DiTPipeline
from PIL import Image

from stepmask import StepMaskError
from stepmask.reference import configurations, train
from stepmask.reference.cifar10 import CLASSES
from stepmask.reference.train import Budget, Progress, batches, main
from tiny import ddim_pipeline, dit_pipeline, generator


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """64 images of 16 x 16 pixels."""
    root = tmp_path_factory.mktemp("cifar10")
    random = np.random.default_rng(0)
    for i in range(64):
        where = root / "train" / CLASSES[i % 10]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(where / f"{i:04}.png")
    return root


@pytest.fixture(autouse=True)
def tiny_configurations(monkeypatch):
    def autoencoder():
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        return AutoencoderKL(block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=16, **blocks)

    monkeypatch.setattr(configurations, "ddpm_cifar10", ddim_pipeline)
    monkeypatch.setattr(configurations, "dit_cifar10", small_dit)
    monkeypatch.setattr(configurations, "autoencoder_cifar10", autoencoder)


def small_dit():
    from diffusers import DiTTransformer2DModel

    pipe = dit_pipeline()
    config = {**pipe.transformer.config, "out_channels": 4}
    pipe.register_modules(transformer=DiTTransformer2DModel.from_config(config))
    return pipe


class Stop(Exception):
    pass


def learn_to_stop(monkeypatch, after: int) -> None:
    """Write a checkpoint at every step, and stop at one."""
    inner, calls = train.noise_prediction_loss, []

    def make(*args, **kwargs):
        loss = inner(*args, **kwargs)

        def counting(*inputs):
            calls.append(1)
            if len(calls) > after:
                raise Stop
            return loss(*inputs)

        return counting

    monkeypatch.setattr(train, "noise_prediction_loss", make)
    monkeypatch.setattr(train.train, "__defaults__", (64, 0.0))


def checkpoint_images(output) -> int:
    (file,) = (path for path in (output / "checkpoint").glob("custom_checkpoint_*") if progress_in(path))
    return progress_in(file)["images"]


def progress_in(path):
    state = torch.load(path, weights_only=False)
    return state if "images" in state else None


def test_a_stopped_training_goes_on_and_ends_as_a_pipeline(data, tmp_path, monkeypatch):
    arguments = {"images": 6 * 16, "batch_size": 16, "learning_rate": 1e-3}
    with monkeypatch.context() as patch, pytest.raises(Stop):
        learn_to_stop(patch, after=4)
        main("ddpm-cifar10", data, tmp_path, **arguments)
    assert checkpoint_images(tmp_path) == 4 * 16
    assert not (tmp_path / "pipeline").exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint"}, "neither old nor new ones are left over"

    counted = []
    original = train.noise_prediction_loss

    def counting(*args, **kwargs):
        loss = original(*args, **kwargs)
        return lambda *inputs: counted.append(1) or loss(*inputs)

    monkeypatch.setattr(train, "noise_prediction_loss", counting)
    main("ddpm-cifar10", data, tmp_path, **arguments)
    assert len(counted) == 2, "four of six batches were done before"
    assert checkpoint_images(tmp_path) == 6 * 16

    record = json.loads((tmp_path / "pipeline" / "training.json").read_text())
    assert record["images_seen"] == 96 and record["model"] == "ddpm-cifar10" and record["hours"] >= 0
    pipe = DDIMPipeline.from_pretrained(tmp_path / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(2, generator(), num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()


def test_autoencoder_then_dit(data, tmp_path):
    arguments = {"images": 32, "batch_size": 16}
    with pytest.raises(StepMaskError, match="train autoencoder-cifar10 first"):
        main("dit-cifar10", data, tmp_path / "dit", **arguments)
    main("autoencoder-cifar10", data, tmp_path / "vae", **arguments)
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae" / "vae")
    assert vae.config.scaling_factor != 1.0
    main("dit-cifar10", data, tmp_path / "dit", autoencoder=tmp_path / "vae", **arguments)
    record = json.loads((tmp_path / "dit" / "pipeline" / "training.json").read_text())
    assert record["images_seen"] == 32 and record["autoencoder"]["images_seen"] == 32
    pipe = DiTPipeline.from_pretrained(tmp_path / "dit" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    images = pipe([1, 2], generator=generator(), num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()


def test_weights_change_and_the_average_is_what_is_left(data, tmp_path):
    model = ddim_pipeline().unet
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randint(0, 255, (64, 3, 16, 16), dtype=torch.uint8, generator=generator())
    loss = train.noise_prediction_loss(ddim_pipeline().scheduler)
    budget = Budget(hours=1.0, images=64, learning_rate=1e-2, warmup_images=1)
    progress = train.train(model, loss, images, torch.zeros(64, dtype=torch.long), tmp_path, budget, 16)
    assert progress.images == 64 and progress.seconds > 0
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) == len(before)


def test_refused_commands(data, tmp_path):
    with pytest.raises(StepMaskError, match="say when to stop"):
        main("ddpm-cifar10", data, tmp_path)
    with pytest.raises(StepMaskError, match="unknown reference model 'ddpm'"):
        main("ddpm", data, tmp_path, images=16)


def test_a_budget_ends_by_hours_or_images():
    budget = Budget(hours=2.0, images=1000, learning_rate=1.0, warmup_images=100)
    assert budget.done(Progress(images=500)) == 0.5
    assert budget.done(Progress(images=500, seconds=5400)) == 0.75
    assert budget.done(Progress(images=2000)) == 1.0
    rates = [budget.rate(Progress(images=count)) for count in (0, 49, 99, 500, 999)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] > 0 and rates[3] == pytest.approx(0.5)


def test_batches_go_on_where_they_were():
    images, labels = torch.arange(10.0)[:, None], torch.arange(10)

    def first(count, start):
        stream = batches(images, labels, 3, start)
        return [next(stream)[1].tolist() for _ in range(count)]

    whole = first(7, 0)
    assert len({label for batch in whole[:3] for label in batch}) == 9, "an epoch draws no image twice"
    assert first(1, 3) == whole[1:2] and first(1, 6) == whole[2:3]
    assert whole[:3] != whole[3:6], "epochs are shuffled anew"


def test_fewer_images_than_a_batch():
    with pytest.raises(StepMaskError, match="10 images make no batch of 64"):
        next(batches(torch.zeros(10, 1), torch.arange(10), 64, 0))


@pytest.mark.parametrize("done", range(1, 7))
def test_batches_go_on_in_later_epochs_too(done):
    """Images that an epoch leaves over are not counted, so the count alone must tell the place."""
    images, labels = torch.arange(10.0)[:, None], torch.arange(10)
    stream = batches(images, labels, 3, 0)
    whole = [next(stream)[1].tolist() for _ in range(8)]
    resumed = batches(images, labels, 3, 3 * done)
    assert [next(resumed)[1].tolist() for _ in range(8 - done)] == whole[done:]
