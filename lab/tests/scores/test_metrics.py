"""LPIPS, CLIP score and metrics by name, on stand-ins for the networks that have to be downloaded."""

import importlib.util

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from refusal import check_refused
from stepmask_lab.scores import metrics, perceptual, standard
from stepmask_lab.scores.distribution import Score, score_images
from stepmask_lab.scores.features import FeatureStatistics
from stepmask_lab.scores.metrics import Metrics, SetScores, load_metrics
from stepmask_lab.scores.perceptual import clip_score_per_image, lpips_per_image
from tiny import ddim_pipeline

WORDS = ("[PAD]", "[END]", "red", "blue", "square")


def pictures(count=40, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class Features(nn.Module):
    """Means and maxima of colours, as the standard network gives features: a vector, places, classes."""

    name, standard = "inception", True

    def __init__(self):
        super().__init__()
        self.eval()

    def forward(self, images):
        features = torch.cat([images.mean((2, 3)), images.amax((2, 3))], 1)
        return {"features": features, "spatial": images[:, 0, ::8, ::8].flatten(1), "logits": 5 * features}


def distance(one, other):
    assert min(one.min(), other.min()) < -0.9, "the networks take images in [-1, 1]"
    return (one - other).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture(scope="module")
def clip():
    """A CLIP of a few thousand random weights, and its processor."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 8, "pad_token_id": 0, "eos_token_id": 1}
    vision = {**small, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[END]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", eos_token="[END]")
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return model, CLIPProcessor(image_processor=CLIPImageProcessor(**size), tokenizer=tokenizer)


def test_lpips_is_asked_of_each_pair_in_batches():
    one, other = pictures(5), pictures(5, seed=1)
    found = lpips_per_image(one, other, distance, batch_size=2)
    assert torch.allclose(found, 4 * (one - other).square().mean((1, 2, 3)))
    assert lpips_per_image(one, one, distance).tolist() == [0] * 5
    check_refused("images of one shape", lpips_per_image, one, other[:2], distance)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision and its weights")
def test_lpips_on_its_network():
    network = perceptual.lpips_network()
    near = (pictures(2) + 0.01).clamp(0, 1)
    same, close, far = (lpips_per_image(pictures(2), other, network) for other in (pictures(2), near, pictures(2, 1)))
    assert same.max() == 0 < close.max() < far.min()


def test_clip_score_is_the_cosine_of_image_and_prompt(clip):
    model, processor = clip
    images, prompts = pictures(5), ["red square", "blue", "blue square", "red", "square"]
    found = clip_score_per_image(images, prompts, model, processor, batch_size=2)
    for image, prompt, score in zip(images, prompts, found, strict=True):
        inputs = processor(text=[prompt], images=[(image * 255).round().byte()], return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs)
        cosine = torch.cosine_similarity(output.image_embeds, output.text_embeds).item()
        assert score == pytest.approx(100 * max(cosine, 0), abs=1e-3)
    assert found.max() > 0


def test_clip_score_cuts_long_prompts_and_refuses_missing_ones(clip):
    long, short = (clip_score_per_image(pictures(1), ["red " * count], *clip) for count in (500, 8))
    assert long == short
    check_refused("a prompt for each", clip_score_per_image, pictures(2), ["red"], *clip)


@pytest.mark.parametrize(("load", "says"), [
    (perceptual.lpips_network, "LPIPS needs torchvision"),
    (perceptual.clip_network, "CLIP score needs transformers"),
    (standard.standard_features, "FID and its kin needs torch_fidelity"),
    (lambda: load_metrics(["psnr"]), "no metric 'psnr'; there are lpips, clip, fid"),
    (lambda: load_metrics(["fid", "lpips"]), r"pip install 'stepmask-lab\[metrics\]'"),
])  # fmt: skip
def test_what_is_missing_is_said(load, says, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_refused(says, load)


def test_what_cannot_be_scored(clip, tmp_path):
    missing = "CLIP score: the weights of its network cannot be read or downloaded"
    check_refused(missing, perceptual.clip_network, str(tmp_path / "none"))
    check_refused("DDIMPipeline takes none: leave clip out", Metrics(clip=clip).check, ddim_pipeline())
    Metrics(lpips=distance).check(ddim_pipeline())
    statistics = FeatureStatistics.of(pictures(), Features())
    check_refused("ask for one of them, or leave it out", load_metrics, [], statistics)


def test_metrics_by_name(clip, monkeypatch):
    monkeypatch.setattr(metrics, "standard_features", Features)
    monkeypatch.setattr(metrics, "lpips_network", lambda: distance)
    monkeypatch.setattr(metrics, "clip_network", lambda: clip)
    full, reference = pictures(), FeatureStatistics.of(pictures(60, seed=2), Features())
    masked, prompts = (0.9 * full).contiguous(), ["red square", "blue"] * 20
    found = load_metrics(["recall", "fid", "clip", "lpips", "is"], reference, bootstrap=10)(masked, full, prompts)
    assert list(found) == ["lpips", "clip", "fid", "is", "recall"]
    fid, of_full = found["fid"], score_images(full, Features(), reference, bootstrap=0)["fid"]
    assert fid.change.value == pytest.approx(fid.value - of_full.value) and fid.low < fid.value < fid.high
    clips = [clip_score_per_image(images, prompts, *clip).double().mean().item() for images in (masked, full)]
    assert found["clip"].value == pytest.approx(clips[0], abs=1e-4)
    assert found["clip"].change.value == pytest.approx(clips[0] - clips[1], abs=1e-4)
    assert found["lpips"].change is None and found["lpips"].num_images == 40
    assert "drawn" not in found["fid"].to_dict()


def test_without_a_reference_set_the_full_run_is_it():
    full = pictures()
    scores = SetScores(Features(), names=("fid",), bootstrap=0)
    assert scores(full.clone(), full)["fid"].value == pytest.approx(0, abs=1e-9)
    assert scores(pictures(seed=1), full)["fid"].value > 0


def test_intervals_of_means_and_of_paired_changes():
    values, full = torch.arange(100.0), torch.arange(100.0) + torch.tensor([0.5, 1.5]).repeat(50)
    score = Score.of_images(values, full)
    error = values.double().std().item() / 10
    assert score.value == 49.5 and score.standard_error == pytest.approx(error)
    assert (score.low, score.high) == pytest.approx((49.5 - 1.96 * error, 49.5 + 1.96 * error), rel=1e-4)
    assert score.change.value == -1 and score.change.standard_error == pytest.approx(0.05, rel=0.01)


def test_a_paired_change_is_surer_than_both_scores():
    full = pictures(200)
    masked = (full + 0.02 * pictures(200, seed=5)).clamp(0, 1)
    statistics = FeatureStatistics.of(0.8 * pictures(300, seed=9), Features())
    fid = SetScores(Features(), statistics, ("fid",))(masked, full)["fid"]
    assert 0 < fid.change.standard_error < fid.standard_error / 2
    of_full = score_images(full, Features(), statistics)["fid"]
    spread = torch.tensor(fid.drawn) - torch.tensor(of_full.drawn)
    assert fid.change.standard_error == pytest.approx(spread.std().item(), rel=1e-3)
    assert fid.change.low < fid.change.value < fid.change.high


def test_only_like_is_compared_in_pairs():
    many, few = (
        score_images(pictures(n), Features(), FeatureStatistics.of(pictures(), Features()))["fid"] for n in (40, 20)
    )
    check_refused("as many images and bootstrap draws", many.against, few)
