"""Scores of sets of images with a tiny extractor: names, counts, intervals, streaming, files."""

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from refusal import check_refused
from stepmask import StepMaskError
from stepmask_lab.scores.distribution import compare_sets, score_images
from stepmask_lab.scores.features import FeatureSet, FeatureStatistics
from stepmask_lab.scores.moments import Moments, frechet_distance
from stepmask_lab.scores.standard import standard_features

SHORT = ["fd", "sfd", "is", "precision", "recall", "kid"]


class Tiny(nn.Module):
    """Means of a random filter, in quarters and as three classes."""

    name = "tiny"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.filter = nn.Conv2d(3, 4, 3)
        self.eval().requires_grad_(False)

    def forward(self, images):
        values = self.filter(images)
        features = values.mean((2, 3))
        return {"features": features, "spatial": values[:, 0, ::3, ::3].flatten(1), "logits": 9 * features[:, :3]}


def pictures(count=60, shift=0.0, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * (1 - shift) + shift


@pytest.fixture(scope="module")
def extractor():
    return Tiny()


@pytest.fixture(scope="module")
def reference(extractor):
    return FeatureStatistics.of(pictures(80, seed=1), extractor, source="noise")


@pytest.fixture(scope="module")
def scores(extractor, reference):
    return score_images(pictures(), extractor, reference, bootstrap=20)


def test_scores_are_called_after_the_extractor(scores):
    assert list(scores.scores) == [f"{name}_tiny" for name in SHORT]
    assert not {"fid", "sfid"} & set(scores.scores)
    with pytest.raises(StepMaskError, match="no score 'fid'; there are fd_tiny"):
        scores["fid"]


def test_only_the_standard_network_has_the_standard_names(reference):
    standard = Tiny()
    standard.standard = True
    assert list(score_images(pictures(), standard, reference, bootstrap=0).scores) == ["fid", "sfid", *SHORT[2:]]


def test_counts_and_intervals(scores):
    assert (scores.num_images, scores.num_reference, scores.bootstrap) == (60, 80, 20)
    counts = {name: (score.num_images, score.num_reference) for name, score in scores.scores.items()}
    assert counts["is_tiny"] == (60, None) and counts["fd_tiny"] == (60, 80) and counts["recall_tiny"] == (60, 60)
    for name, score in scores.scores.items():
        assert score.low <= score.value <= score.high and score.standard_error > 0, name
    assert scores["precision_tiny"].high <= 1 and scores["fd_tiny"].low >= 0 and scores["is_tiny"].low >= 1


def test_results_go_to_json_and_to_words(scores):
    record = json.loads(json.dumps(scores.to_dict()))
    assert record["scores"]["fd_tiny"]["value"] == scores["fd_tiny"].value and record["reference"] == "noise"
    text = str(scores)
    assert "60 images against 80 of noise" in text and "20 bootstrap draws" in text
    assert all(f"  {name}" in text for name in scores.scores)


def test_the_same_seed_gives_the_same_numbers(scores, extractor, reference):
    again = score_images(pictures(), extractor, reference, bootstrap=20)
    other = score_images(pictures(), extractor, reference, bootstrap=20, seed=1)
    assert again.to_dict() == scores.to_dict()
    assert other["fd_tiny"].value == scores["fd_tiny"].value
    assert other["fd_tiny"].standard_error != scores["fd_tiny"].standard_error


def test_intervals_are_those_of_new_images(extractor, reference):
    """Standard errors from one set against the spread over many sets."""
    values = {name: [] for name in SHORT}
    for seed in range(60):
        found = score_images(pictures(seed=seed + 5), extractor, reference, bootstrap=0)
        for name in SHORT:
            values[name].append(found[f"{name}_tiny"].value)
    one = score_images(pictures(seed=3), extractor, reference, bootstrap=200)
    for name in ("fd", "sfd", "is", "precision", "kid"):
        spread = torch.tensor(values[name]).std().item()
        assert spread / 2 < one[f"{name}_tiny"].standard_error < 2 * spread, name


def test_batches_of_any_size_give_the_same(scores, extractor, reference):
    streamed = score_images(iter(pictures().split(7)), extractor, reference, bootstrap=20, batch_size=3)
    for name, score in scores.scores.items():
        assert streamed[name].value == pytest.approx(score.value, rel=1e-4, abs=1e-7)


def test_bytes_are_images_too(extractor, reference):
    picture = (pictures() * 255).round().to(torch.uint8)
    one, other = (score_images(p, extractor, reference, bootstrap=0) for p in (picture, picture.float() / 255))
    assert one == other and one["fd_tiny"].low is None and "±" not in str(one), "no interval without a bootstrap"


def test_as_many_real_images_are_scored_too(extractor, scores):
    """What a perfect sampler gets; known where the reference set is large enough."""
    many = FeatureStatistics.of(pictures(1000, seed=1), extractor)
    found = {count: score_images(pictures(count), extractor, many, bootstrap=0) for count in (20, 150, 201)}
    real = {count: of["fd_tiny"].real for count, of in found.items()}
    assert real[20] > 3 * real[150] > 0 and real[201] is None and scores["fd_tiny"].real is None
    assert real[150] / 3 < found[150]["fd_tiny"].value < 3 * real[150], "pictures of the same kind"
    assert "as many real images" in str(found[150]) and "as many" not in str(found[201])


def test_two_sets(extractor):
    same = compare_sets(pictures(), pictures(), extractor, bootstrap=0)
    assert same["fd_tiny"].value == pytest.approx(0, abs=1e-9)
    assert same["precision_tiny"].value == same["recall_tiny"].value == 1
    near, far = (compare_sets(pictures(), pictures(70, shift, seed=1), extractor, bootstrap=0) for shift in (0.0, 0.5))
    for name in ("fd_tiny", "sfd_tiny", "kid_tiny"):
        assert near[name].value < far[name].value
    assert far["precision_tiny"].value == far["recall_tiny"].value == 0


def test_statistics_of_a_stream_are_those_of_the_whole(extractor, reference):
    streamed = FeatureStatistics.of(iter(pictures(80, seed=1).split(9)), extractor, source="noise", num_samples=30)
    assert torch.allclose(streamed.features.covariance, reference.features.covariance)
    assert torch.allclose(streamed.spatial.mean, reference.spatial.mean)
    rows = torch.cdist(streamed.sample, reference.sample).min(1)
    assert streamed.sample.shape == (30, 4) and rows.values.max() < 1e-3
    assert len(set(rows.indices.tolist())) == 30 and max(rows.indices.tolist()) > 40, "drawn from all, each once"


def test_statistics_come_back_from_a_file(extractor, reference, tmp_path):
    reference.save(tmp_path / "noise.safetensors")
    again = FeatureStatistics.load(tmp_path / "noise.safetensors")
    assert (again.num_images, again.extractor, again.source) == (80, "tiny", "noise")
    one, other = (score_images(pictures(), extractor, kept, bootstrap=0) for kept in (reference, again))
    for name in one.scores:
        assert other[name].value == pytest.approx(one[name].value, rel=0.02, abs=1e-4)
    carrying = Tiny()
    carrying.statistics = tmp_path / "noise.safetensors"
    assert score_images(pictures(), carrying, bootstrap=0) == other


def test_published_statistics(extractor, tmp_path):
    values = FeatureSet.of(pictures(), extractor).features.double().numpy()
    np.savez(tmp_path / "known.npz", mu=values.mean(0), sigma=np.cov(values, rowvar=False))
    known = FeatureStatistics.load(tmp_path / "known.npz")
    assert known.extractor == "inception" and known.sample is None and known.spatial is None
    assert frechet_distance(known.features, Moments.of(torch.from_numpy(values))) == pytest.approx(0, abs=1e-9)


def test_an_extractor_of_features_alone(reference):
    def plain(images):
        return {"features": images.mean((2, 3))}

    scores = compare_sets(pictures(), pictures(seed=1), plain, bootstrap=2)
    assert list(scores.scores) == ["fd_features", "precision_features", "recall_features", "kid_features"]
    check_refused("brings no reference set along", score_images, pictures(), plain)
    check_refused("made with 'tiny', not 'features'", score_images, pictures(), plain, reference)


@pytest.mark.parametrize(("images", "words"), [
    (pictures() * 2 - 1, r"must lie in \[0, 1\], got values from -1"),
    (pictures() * math.nan, r"must lie in \[0, 1\]"),
    (pictures()[0], r"\(N, 3, H, W\)"),
    ([np.zeros((2, 3, 8, 8))], "got ndarray"),
    (iter([]), "no images to score"),
    (pictures(1), "at least 2 images, got 1"),
])  # fmt: skip
def test_images_that_cannot_be_scored(images, words, extractor, reference):
    check_refused(words, score_images, images, extractor, reference)


def test_refused(extractor, reference, tmp_path):
    check_refused("at least 2 draws, got 1", score_images, pictures(), extractor, reference, bootstrap=1)
    check_refused("batch_size must be at least 1", score_images, pictures(), extractor, reference, batch_size=0)
    with pytest.raises(StepMaskError, match=r"one row per image; got .*'features': \(3,\)"):
        FeatureStatistics.of(pictures(), lambda images: {"features": images.mean((0, 2, 3))})
    check_refused("call its eval", score_images, pictures(), Tiny().train(), reference)
    check_refused("no statistics at", FeatureStatistics.load, tmp_path / "none.safetensors")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    check_refused("no mu and sigma", FeatureStatistics.load, tmp_path / "other.npz")


def test_the_standard_network_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_refused(r"pip install 'stepmask-lab\[metrics\]'", standard_features)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is None, reason="needs torch-fidelity and its weights")
def test_the_standard_network():
    extractor = standard_features()
    seen = extractor(pictures(2))
    assert [tuple(seen[name].shape) for name in ("features", "spatial", "logits")] == [(2, 2048), (2, 2023), (2, 1008)]
    scores = compare_sets(pictures(8), pictures(8, seed=1), extractor, bootstrap=0)
    assert list(scores.scores) == ["fid", "sfid", "is", "precision", "recall", "kid"]
