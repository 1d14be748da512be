"""The training script on 64 made images: checkpoints, going on after a stop, and pipelines that load and sample."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMPipeline
from safetensors.torch import load_file

from refusal import check_refused
from small import autoencoder, ldm_pipeline, pixart_pipeline
from stepmask import StepMaskError
from stepmask_lab import reference
from stepmask_lab.reference import configurations, train
from stepmask_lab.reference.conditioning import trainable
from stepmask_lab.reference.train import Budget, Progress, Watch, batches, main
from tiny import ddim_pipeline, dit_pipeline, generator, quiet


@pytest.fixture(autouse=True)
def tiny_configurations(monkeypatch):
    builders = {
        "ddpm-cifar10": ddim_pipeline, "dit-cifar10": small_dit, "ldm-cifar10": ldm_pipeline,
        "pixart-cifar10": pixart_pipeline,
    }  # fmt: skip
    monkeypatch.setattr(configurations, "BUILDERS", builders)
    monkeypatch.setattr(configurations, "autoencoder_cifar10", lambda: autoencoder(scaling_factor=1.0))


def small_dit():
    pipe = dit_pipeline()
    config = {**pipe.transformer.config, "out_channels": 4}
    pipe.register_modules(transformer=type(pipe.transformer).from_config(config))
    return pipe


class Stop(Exception):
    pass


def learn_to_stop(monkeypatch, after: int) -> None:
    """Write a checkpoint at every step, and stop at one."""
    inner, calls = train.denoising_loss, []

    def make(*args, **kwargs):
        loss = inner(*args, **kwargs)

        def counting(*inputs):
            calls.append(1)
            if len(calls) > after:
                raise Stop
            return loss(*inputs)

        return counting

    monkeypatch.setattr(train, "denoising_loss", make)
    monkeypatch.setattr(train.train, "__defaults__", (64, 0.0, "bf16", None))


def checkpoint_images(output) -> int:
    states = (torch.load(path, weights_only=False) for path in (output / "checkpoint").glob("custom_checkpoint_*"))
    (found,) = (state["images"] for state in states if "images" in state)
    return found


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
    original = train.denoising_loss

    def counting(*args, **kwargs):
        loss = original(*args, **kwargs)
        return lambda *inputs: counted.append(1) or loss(*inputs)

    monkeypatch.setattr(train, "denoising_loss", counting)
    main("ddpm-cifar10", data, tmp_path, **arguments)
    assert len(counted) == 2, "four of six batches were done before"
    assert checkpoint_images(tmp_path) == 6 * 16

    record = json.loads((tmp_path / "pipeline" / "training.json").read_text())
    assert record["images_seen"] == 96 and record["model"] == "ddpm-cifar10" and record["hours"] >= 0
    pipe = DDIMPipeline.from_pretrained(tmp_path / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(2, generator(), num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()


@pytest.fixture(scope="module")
def first_stage(data, tmp_path_factory):
    """A finished autoencoder."""
    folder = tmp_path_factory.mktemp("vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configurations, "autoencoder_cifar10", lambda: autoencoder(scaling_factor=1.0))
        main("autoencoder-cifar10", data, folder, images=32, batch_size=16)
    return folder


CALLS = {
    "dit-cifar10": {"class_labels": [1, 2]},
    "ldm-cifar10": {"class_labels": [1, 2]},
    "pixart-cifar10": {"prompt": ["a photo of a car", "a bird"]},
}


def test_the_autoencoder_scales_its_latents(first_stage):
    assert AutoencoderKL.from_pretrained(first_stage / "vae").config.scaling_factor != 1.0


@pytest.mark.parametrize("name", CALLS)
def test_models_of_latents(data, first_stage, tmp_path, monkeypatch, name):
    if name == "pixart-cifar10":
        pytest.importorskip("transformers")
    arguments = {"images": 32, "batch_size": 16}
    with pytest.raises(StepMaskError, match=f"{name} is trained on latents: train autoencoder-cifar10 first"):
        main(name, data, tmp_path / "none", **arguments)
    main(name, data, tmp_path / name, autoencoder=first_stage, **arguments)
    record = json.loads((tmp_path / name / "pipeline" / "training.json").read_text())
    assert record["images_seen"] == 32 and record["autoencoder"]["images_seen"] == 32
    reader = {"ldm-cifar10": "class_embedder", "pixart-cifar10": "text_encoder"}.get(name)
    if reader:  # what reads the label is trained too
        (weights,) = (tmp_path / name / "pipeline" / reader).glob("*.safetensors")
        state = load_file(tmp_path / name / "checkpoint" / "model.safetensors")
        trained = [key.removeprefix(f"{reader}.") for key in state if key.startswith(f"{reader}.")]
        assert trained and set(trained) <= load_file(weights).keys()
    (tmp_path / name / "pipeline").rename(tmp_path / "weights")
    monkeypatch.setattr(reference, "_WEIGHTS", tmp_path)
    pipe = quiet(reference.load("weights"))
    assert pipe.vae.config.scaling_factor == AutoencoderKL.from_pretrained(first_stage / "vae").config.scaling_factor
    images = pipe(**CALLS[name], generator=generator(), num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()


def test_a_pipeline_lends_its_autoencoder(data, first_stage, tmp_path):
    arguments = {"images": 16, "batch_size": 16}
    main("ldm-cifar10", data, tmp_path / "first", autoencoder=first_stage, **arguments)
    main("ldm-cifar10", data, tmp_path / "second", autoencoder=tmp_path / "first" / "pipeline", **arguments)
    first, second = (tmp_path / name / "pipeline" for name in ("first", "second"))
    vaes = [folder / "vae" / "diffusion_pytorch_model.safetensors" for folder in (first, second)]
    assert vaes[0].read_bytes() == vaes[1].read_bytes()
    records = [json.loads((folder / "training.json").read_text())["autoencoder"] for folder in (first, second)]
    assert records[0] == records[1] and records[0]["model"] == "autoencoder-cifar10"


def test_weights_change_and_the_average_is_what_is_left(data, tmp_path):
    model = trainable(ddim_pipeline())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randint(0, 255, (64, 3, 16, 16), dtype=torch.uint8, generator=generator())
    loss = train.denoising_loss(ddim_pipeline().scheduler)
    budget = Budget(hours=1.0, images=64, learning_rate=1e-2, warmup_images=1)
    progress = train.train(model, loss, images, torch.zeros(64, dtype=torch.long), tmp_path, budget, 16)
    assert progress.images == 64 and progress.seconds > 0
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) == len(before)


def test_refused_commands(data, tmp_path):
    check_refused("say when to stop", main, "ddpm-cifar10", data, tmp_path)
    check_refused("unknown reference model 'ddpm'", main, "ddpm", data, tmp_path, images=16)


def test_a_budget_ends_by_hours_or_images():
    budget = Budget(hours=2.0, images=1000, learning_rate=1.0, warmup_images=100)
    assert budget.done(Progress(images=500)) == 0.5
    assert budget.done(Progress(images=500, seconds=5400)) == 0.75
    assert budget.done(Progress(images=2000)) == 1.0
    rates = [budget.rate(Progress(images=count)) for count in (0, 49, 99, 500, 999)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] > 0 and rates[3] == pytest.approx(0.5)


def test_the_curve_is_of_means_and_a_checkpoint_is_due_once(capsys):
    progress = Progress()
    watch = Watch(progress, "run", checkpoint_minutes=0)
    for loss in range(250):
        watch.after_batch(4, float(loss))
    assert progress.images == 1000 and progress.curve == [(400, 49.5), (800, 149.5)]
    assert "run: 800 images, 0.0 min, loss 149.5000" in capsys.readouterr().out
    assert watch.checkpoint_due() and not watch.checkpoint_due()
    assert not Watch(progress, "run", checkpoint_minutes=5).checkpoint_due()


def test_batches_go_on_where_they_were_in_later_epochs_too():
    """Images that an epoch leaves over are not counted, so the count alone must tell the place."""
    images, labels = torch.arange(10.0)[:, None], torch.arange(10)
    stream = batches(images, labels, 3, 0)
    whole = [next(stream)[1].tolist() for _ in range(8)]
    assert len({label for batch in whole[:3] for label in batch}) == 9, "an epoch draws no image twice"
    assert whole[:3] != whole[3:6], "epochs are shuffled anew"
    for done in range(1, 7):
        resumed = batches(images, labels, 3, 3 * done)
        assert [next(resumed)[1].tolist() for _ in range(8 - done)] == whole[done:]
    with pytest.raises(StepMaskError, match="10 images make no batch of 64"):
        next(batches(torch.zeros(10, 1), torch.arange(10), 64, 0))
