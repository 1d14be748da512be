"""The classifier: its call, its training on a few made images, its statistics, and the weights of the package."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from refusal import check_refused
from stepmask_lab import reference
from stepmask_lab.reference import train_classifier
from stepmask_lab.reference.cifar10 import CLASSES
from stepmask_lab.reference.classifier import FOLDER, RECORD, STATISTICS, WEIGHTS, Classifier, load_classifier
from stepmask_lab.reference.train import Budget
from stepmask_lab.reference.train_classifier import main, noisy, shifted
from stepmask_lab.scores.distribution import score_images
from stepmask_lab.scores.features import FeatureStatistics

shipped = pytest.mark.skipif(not (FOLDER / WEIGHTS).exists(), reason="the weights are not there")


def pictures(count=6, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def tiny():
    torch.manual_seed(0)
    return Small()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """64 images to train on and 32 to test, the classes told by their brightness."""
    root = tmp_path_factory.mktemp("cifar10")
    random = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 32)):
        for i in range(count):
            where = root / split / CLASSES[i % 2]
            where.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 100, (32, 32, 3), dtype=np.uint8) + 150 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(where / f"{i:04}.png")
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Output of a short training."""
    folder = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_classifier, "Classifier", Small)
        patch.setattr(train_classifier, "Budget", quick_budget)
        patch.setattr(train_classifier, "NUM_SAMPLES", 20)
        main(data, folder, images=40 * 16, batch_size=16, learning_rate=0.05)
    return folder


class Small(Classifier):
    def __init__(self):
        super().__init__((4, 8, 6))


def quick_budget(**arguments):
    return Budget(**{**arguments, "warmup_images": 32})


def test_what_it_returns():
    model = tiny().eval()
    seen = model(pictures())
    assert {name: tuple(values.shape) for name, values in seen.items()} == {
        "features": (6, 6), "spatial": (6, 4 * 7 * 7), "logits": (6, 10),
    }  # fmt: skip
    assert seen["spatial"].std() > 0
    assert torch.allclose(seen["features"][:2], model(pictures()[:2])["features"], atol=1e-6), "in any batch"


def test_images_of_other_sizes_are_resized():
    model = tiny().eval()
    large = pictures().repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert (model(large)["features"] - model(pictures())["features"]).abs().max() < 0.5
    check_refused(r"\(N, 3, H, W\), got \(6, 1, 32, 32\)", model, pictures()[:, :1])


def test_the_first_layer_whitens():
    model = tiny()
    images = pictures(20).cumsum(3) / 32
    model.fit_whitening(images, epsilon=0.0)
    values = model.whiten((images - model.mean) / model.std)[:, :12].transpose(0, 1).flatten(1)
    assert torch.allclose(values @ values.T / values.shape[1], torch.eye(12), atol=0.05)
    assert torch.equal(model.whiten.weight[:12], -model.whiten.weight[12:])


def test_shifts_move_images_by_a_few_pixels():
    torch.manual_seed(0)
    images = torch.arange(32.0).expand(40, 3, 32, 32)
    moved = shifted(images, most=2)
    steps = (moved[:, 0, 16, 16] - 16).tolist()
    assert set(steps) == {-2.0, -1.0, 0.0, 1.0, 2.0} and moved.shape == images.shape
    assert torch.equal(shifted(images, most=0), images)


def test_noise_is_drawn_for_each_image_and_stays_in_range():
    torch.manual_seed(0)
    grey = torch.full((200, 3, 16, 16), 0.5)
    deviations = (noisy(grey, most=0.04) - grey).flatten(1).std(1)
    assert 0.038 < deviations.max() < 0.043 and deviations.min() < 0.004 and 0.018 < deviations.mean() < 0.022
    assert noisy(torch.ones(2, 3, 4, 4)).max() == 1 and torch.equal(noisy(grey, most=0.0), grey)


def test_a_training_may_begin_with_the_weights_of_another(data, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train_classifier, "Classifier", Small)
    main(data, tmp_path, images=16, batch_size=16, learning_rate=1e-6, start=trained)
    one, other = (load_classifier(folder).head.weight for folder in (trained, tmp_path))
    assert torch.allclose(one, other, atol=1e-3)
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["images_seen"] == 16 and record["start"]["images_seen"] == 640


def test_training_learns_and_leaves_a_record(trained):
    record = json.loads((trained / RECORD).read_text())
    assert record["test_accuracy"] > 0.9 and record["test_images"] == 32
    assert record["images_seen"] == 640 and record["epochs"] == 10 and record["model"] == "classifier-cifar10"


def test_statistics_are_those_of_the_train_split(data, trained):
    model = load_classifier(trained)
    assert model.statistics == trained / STATISTICS and not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    pixels = torch.from_numpy(train_classifier.load_cifar10(data)[0])
    kept, fresh = FeatureStatistics.load(model.statistics), FeatureStatistics.of(pixels, model, num_samples=64)
    assert (kept.num_images, kept.extractor, kept.source) == (64, "cifar", "CIFAR-10, train split")
    for one, other in ((kept.features, fresh.features), (kept.spatial, fresh.spatial)):
        assert torch.allclose(one.mean, other.mean, atol=1e-4)
        assert torch.allclose(one.covariance, other.covariance, rtol=1e-3, atol=1e-5)
    assert kept.sample.shape == (20, 6)
    assert torch.cdist(kept.sample, fresh.sample).min(1).values.max() < 0.05
    scores = score_images(pixels, model, bootstrap=0)
    assert (
        scores["fd_cifar"].value < 1e-3 < score_images(1 - pixels.float() / 255, model, bootstrap=0)["fd_cifar"].value
    )


def test_a_stopped_training_goes_on(data, tmp_path, monkeypatch):
    images = torch.randint(0, 255, (32, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(32) % 10
    monkeypatch.setattr(train_classifier, "Classifier", Small)

    def run(model, count):
        budget = quick_budget(hours=1.0, images=count, learning_rate=0.01)
        return train_classifier.train(model, images, labels, tmp_path, budget, batch_size=16)

    assert run(tiny(), 32).images == 32
    model = tiny()
    progress = run(model, 64)
    assert progress.images == 64 and int(model.blocks[0].first_norm.num_batches_tracked) == 4
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert run(tiny(), 64).images == 64, "nothing is left to do"
    again = tiny()
    run(again, 64)
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_refused(data, tmp_path):
    check_refused("say when to stop", main, data, tmp_path)
    check_refused("train one with python", load_classifier, tmp_path)


@shipped
def test_the_classifier_of_the_package():
    model = reference.load_classifier()
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert (FOLDER / WEIGHTS).stat().st_size < 4e6 and (FOLDER / STATISTICS).stat().st_size < 3e6
    record = json.loads((FOLDER / RECORD).read_text())
    assert record["test_accuracy"] > 0.85 and record["test_images"] == 10_000
    statistics = FeatureStatistics.load(model.statistics)
    assert statistics.num_images == 50_000 and statistics.extractor == "cifar"
    assert FOLDER.name not in reference.names(), "it is no pipeline"


@shipped
def test_grain_that_is_hardly_seen_hardly_counts():
    """The features once saw fine detail in colour, of which photographs have none, and hardly anything else."""
    model = reference.load_classifier()
    smooth = torch.nn.functional.interpolate(pictures(60, 5), (32, 32), mode="bicubic").clamp(0, 1)
    torch.manual_seed(0)
    grain = 0.01 * torch.randn_like(smooth)
    there, off = (model(images)["features"] for images in (smooth, (smooth + grain).clamp(0, 1)))
    assert (there - off).norm(dim=1).mean() < 0.2 * torch.cdist(there, there).mean()


@shipped
def test_noise_is_far_from_cifar10():
    model = reference.load_classifier()
    scores = score_images(pictures(200), model, bootstrap=2)
    assert scores["fd_cifar"].value > 5 * scores["fd_cifar"].real
    assert scores["recall_cifar"].value == 0 and scores["is_cifar"].value < 1.5
