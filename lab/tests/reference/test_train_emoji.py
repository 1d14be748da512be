"""Training and judging the model of emoji, at tiny sizes and with noise in place of pictures."""

import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from small import autoencoder, pixart_parts
from stepmask_lab import reference
from stepmask_lab.reference import configurations, emoji, judge_emoji, train_emoji
from stepmask_lab.reference.captions import tokenizer
from stepmask_lab.reference.text_to_image import EmojiPipeline
from tiny import generator, quiet

pytest.importorskip("transformers")


def tiny_pipeline() -> EmojiPipeline:
    return quiet(EmojiPipeline(**pixart_parts(words=tokenizer(emoji.CAPTIONS))))


@pytest.fixture(autouse=True)
def first_in_the_process():
    """A process has one precision, and another test may have chosen another."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def pictures(monkeypatch):
    """Noise of 16 x 16 pixels for every pair."""
    made = np.random.default_rng(0).integers(0, 255, (len(emoji.PAIRS), 3, 16, 16), dtype=np.uint8)
    monkeypatch.setattr(emoji, "load_emoji", lambda source, cache: made)
    return made


@pytest.fixture
def tiny_models(tmp_path, monkeypatch):
    autoencoder(scaling_factor=1.0).save_pretrained(tmp_path / "weights" / train_emoji.FIRST_STAGE / "vae")
    (tmp_path / "weights" / train_emoji.FIRST_STAGE / "model_index.json").write_text("{}")
    monkeypatch.setattr(reference, "_WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(configurations, "autoencoder_emoji", lambda: autoencoder(scaling_factor=1.0))
    monkeypatch.setattr(configurations, "pixart_emoji", tiny_pipeline)
    monkeypatch.setattr(train_emoji, "CHECKPOINT_MINUTES", 0.0)


class Stop(Exception):
    pass


def stop_at(monkeypatch, stage: str, call: int) -> None:
    """End a training in the middle of a stage."""
    original = getattr(train_emoji, stage)

    def make(*arguments):
        loss, calls = original(*arguments), []

        def counting(*inputs):
            calls.append(1)
            if len(calls) == call:
                raise Stop
            return loss(*inputs)

        return counting

    monkeypatch.setattr(train_emoji, stage, make)


def test_two_stages_each_of_which_goes_on_after_a_stop(tiny_models, pictures, tmp_path, monkeypatch):
    output = tmp_path / "output"
    arguments = {"icons": tmp_path, "output": output, "images": 64, "autoencoder_images": 12}
    for stage, folder in (("reconstruction_loss", "autoencoder"), ("denoising_loss", "transformer")):
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_at(patch, stage, 3)
            train_emoji.main(**arguments)
        assert (output / folder / "checkpoint").exists()
    assert json.loads((output / "pipeline" / "training.json").read_text())["images_seen"] == 32, "of a stopped training"
    train_emoji.main(**arguments)

    record = json.loads((output / "pipeline" / "training.json").read_text())
    assert record["images_seen"] == 64 and record["autoencoder"]["images_seen"] == 12
    assert "Apache-2.0" in record["data"] and "MIT" in record["data"] and record["core_hours"] >= 0
    sheets = sorted(path.name for path in (output / "transformer").glob("*.png"))
    assert sheets == [f"sheet-{count:09}.png" for count in (16, 32, 48, 64)]
    with Image.open(output / "transformer" / sheets[-1]) as sheet:
        assert sheet.height < sheet.width, "16 pictures in a row"
    pipe = quiet(reference.load_from(output / "pipeline", "model"))
    assert type(pipe) is EmojiPipeline and "a red apple, flat style" in pipe.example_prompts
    assert pipe("a red apple, flat style", num_inference_steps=2, output_type="pt").images.isfinite().all()


def test_the_curve_is_lines_of_json(tmp_path):
    progress = train_emoji.Progress(curve=[(400, 0.5), (800, 0.25)])
    train_emoji.recorder(tmp_path, lambda: torch.zeros(1, 3, 8, 8))(progress)
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert lines == [{"images": 400, "loss": 0.5}, {"images": 800, "loss": 0.25}]


@torch.no_grad()
def test_standardised_latents_decode_to_the_same():
    vae = autoencoder()
    images = torch.rand(32, 3, 16, 16, generator=generator()) * 2 - 1
    before = vae.encode(images).latent_dist
    expected = vae.decode(before.mean).sample
    latents = train_emoji.standardise(vae, before.mean)
    after = vae.encode(images).latent_dist
    torch.testing.assert_close(after.mean, latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.std / before.std, (after.std / before.std)[:1, :, :1, :1].expand_as(after.std))
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(vae.decode(after.mean).sample, expected, rtol=1e-3, atol=1e-4)


class Drawer:
    """Stands for a pipeline: draws what it is told to for each prompt."""

    def __init__(self, drawn: dict[str, torch.Tensor]) -> None:
        self.drawn = drawn

    def __call__(self, prompts, generator, output_type, **sampling):
        assert len(generator) == len(prompts) and output_type == "pt"
        return type("Output", (), {"images": torch.stack([self.drawn[prompt] for prompt in prompts])})


def test_the_judge_counts_emoji_and_styles():
    real = torch.rand(len(emoji.PAIRS), 3, 64, 64, generator=generator())
    labels = judge_emoji.asked_labels()
    assert len(set(labels // 3)) == len(labels) == 100 and not emoji.held_out()[labels].any()
    assert set(labels % 3) == {0, 1, 2}
    drawn = {emoji.CAPTIONS[label][0]: real[label] for label in labels}
    other_style, other_emoji = labels[3] // 3 * 3 + (labels[3] + 1) % 3, (labels[7] + 3) % len(real)
    drawn[emoji.CAPTIONS[labels[3]][0]] = real[other_style]
    drawn[emoji.CAPTIONS[labels[7]][0]] = (real[other_emoji] + 0.1).clamp(0, 1)
    verdict = judge_emoji.judge(Drawer(drawn), labels, real)
    assert np.flatnonzero(~verdict.right()).tolist() == [7]
    assert np.flatnonzero(~verdict.in_style()).tolist() == [3, 7] and verdict.nearest[7] == other_emoji
    sheet = judge_emoji.sheet(verdict, real)
    assert sheet.shape == (200, 3, 64, 64), "five rows of each"
    assert torch.equal(sheet[20 + 7, :, 0], torch.tensor([1.0, 0, 0])[:, None].expand(3, 64))
    assert torch.equal(sheet[20 + 6], real[verdict.nearest[6]]) and torch.equal(sheet[7], verdict.images[7])


def test_the_judge_writes_what_it_saw(tiny_models, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(judge_emoji, "asked_labels", lambda: np.arange(0, 9, 3))
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    judge_emoji.main(tmp_path / "pipeline", tmp_path, tmp_path / "judged", steps=1)
    record = json.loads((tmp_path / "judged" / "judge.json").read_text())
    assert record["steps"] == 1 and record["held_out"]["asked"] == emoji.held_out().sum()
    seen = record["seen"]
    assert seen["asked"] == 3 and seen["right"] + len(seen["wrong"]) == 3 and seen["in_style"] <= seen["right"]
    assert {path.name for path in (tmp_path / "judged").iterdir()} == {"judge.json", "seen.png", "held_out.png"}
