"""Trains the classifier.

Run it by ``python -m stepmask_lab.reference.train_classifier --data CIFAR10 --output FOLDER --hours H``.

Ends with three files: the weights in float16, ``statistics.safetensors`` of the train split, which
`stepmask.evaluation` scores images against, and ``classifier.json``, the record with the accuracy on the test split.
A run that was stopped goes on where it was when the same command is given again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from stepmask_lab.reference.cifar10 import load_cifar10
from stepmask_lab.reference.classifier import RECORD, STATISTICS, WEIGHTS, Classifier, load_classifier
from stepmask_lab.reference.train import (
    ENDLESS_HOURS,
    ENDLESS_IMAGES,
    Budget,
    Hours,
    Images,
    Progress,
    Threads,
    Watch,
    batches,
    begin,
    write_record,
)

LABEL_SMOOTHING = 0.1
MOST_SHIFT = 4
"""Pixels by which training images are moved."""
MOST_NOISE = 0.04
"""Largest standard deviation of the noise in training images, whose pixels lie in [0, 1]. Without it the features see
the grain that samplers leave, and hardly anything else."""
NUM_SAMPLES = 5000
"""Images whose own features are kept, for scores that need more than moments."""
CHECKPOINT = "checkpoint.pt"


def shifted(images: Tensor, most: int = MOST_SHIFT) -> Tensor:
    """Move each image (N, C, H, W) at random by up to `most` pixels, its border mirrored; channels come last."""
    number, _, height, width = images.shape
    padded = nn.functional.pad(images, (most,) * 4, mode="reflect")
    down, right = torch.randint(0, 2 * most + 1, (2, number, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    picked = padded[torch.arange(number)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def noisy(images: Tensor, most: float = MOST_NOISE) -> Tensor:
    """Add Gaussian noise to images in [0, 1], from none at all to `most`, drawn for each image."""
    return (images + most * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)).clamp(0, 1)


def train(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    folder: Path,
    budget: Budget,
    batch_size: int = 256,
    checkpoint_minutes: float = 5.0,
) -> Progress:
    """Train `model` in place on uint8 images; goes on from ``folder/checkpoint.pt`` where there is one."""
    model.train().to(memory_format=torch.channels_last)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=budget.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    progress = Progress()
    if (folder / CHECKPOINT).exists():
        state = torch.load(folder / CHECKPOINT, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress.load_state_dict(state["progress"])

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress.state_dict()}
        torch.save(state, folder / "checkpoint.new")
        (folder / "checkpoint.new").replace(folder / CHECKPOINT)

    watch = Watch(progress, folder.name, checkpoint_minutes)
    for batch, label in batches(images, labels, batch_size, progress.images):
        if budget.done(progress) >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(progress)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(noisy(shifted(batch / 2 + 0.5)))["logits"]
        loss = nn.functional.cross_entropy(logits.float(), label, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watch.after_batch(batch_size, loss.item())
        if watch.checkpoint_due():
            save()
    save()
    return progress


@torch.inference_mode()
def extract(model: Classifier, images: Tensor, batch_size: int = 500) -> dict[str, Tensor]:
    """Features, spatial features and logits of uint8 images."""
    parts = [model(chunk.float() / 255) for chunk in images.split(batch_size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose class is guessed right."""
    return (logits.argmax(1) == labels).double().mean().item()


def write_statistics(path: Path, seen: dict[str, Tensor], source: str) -> None:
    """Write what `stepmask.evaluation.FeatureStatistics` loads: moments, and features of every n-th image."""
    tensors = {}
    for name in ("features", "spatial"):
        values = seen[name].double()
        tensors[f"{name}.mean"] = values.mean(0).float()
        tensors[f"{name}.covariance"] = values.T.cov().float()
    count = len(seen["features"])
    rows = torch.linspace(0, count - 1, min(NUM_SAMPLES, count)).round().long()
    tensors["sample"] = seen["features"][rows].half()
    about = {"num_images": count, "extractor": Classifier.name, "source": source}
    save_file(tensors, path, metadata={"statistics": json.dumps(about)})


def finish(model: Classifier, output: Path, pixels: Tensor) -> Classifier:
    """Write weights and statistics; returns the classifier as it will be loaded, from float16."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(state, output / WEIGHTS)
    model = load_classifier(output)
    write_statistics(output / STATISTICS, extract(model, pixels), "CIFAR-10, train split")
    return model


def main(
    data: Annotated[Path, typer.Option(help="CIFAR-10: a folder or tar archive with train/ and test/<class>/*.jpg")],
    output: Annotated[Path, typer.Option(help="folder for the checkpoint and the three finished files")],
    hours: Hours = ENDLESS_HOURS,
    images: Images = ENDLESS_IMAGES,
    learning_rate: Annotated[float, typer.Option()] = 0.2,
    batch_size: Annotated[int, typer.Option()] = 256,
    start: Annotated[Path | None, typer.Option(help="output of a training whose weights this one begins with")] = None,
    threads: Threads = 0,
) -> None:
    """Train the classifier; give the same command again to go on after a stop."""
    begin(output, hours, images, threads)
    pixels, labels = (torch.from_numpy(array) for array in load_cifar10(data))
    test_pixels, test_labels = (torch.from_numpy(array) for array in load_cifar10(data, "test"))
    warmup = len(pixels) // 2 if start else 2 * len(pixels)
    budget = Budget(hours=hours, images=images, learning_rate=learning_rate, warmup_images=warmup)
    model = Classifier()
    more = {}
    if start:
        model.load_state_dict(load_classifier(start).state_dict())
        more["start"] = json.loads((start / RECORD).read_text())
    model.fit_whitening(pixels[:5000].float() / 255)
    progress = train(model, pixels, labels, output, budget, batch_size)
    model = finish(model, output, pixels)
    test_accuracy = accuracy(extract(model, test_pixels)["logits"], test_labels)
    print(f"test accuracy {test_accuracy:.2%}")
    write_record(
        output / RECORD,
        "classifier-cifar10",
        progress,
        budget,
        batch_size=batch_size,
        label_smoothing=LABEL_SMOOTHING,
        most_noise=MOST_NOISE,
        epochs=round(progress.images / len(pixels), 2),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        test_accuracy=round(test_accuracy, 4),
        test_images=len(test_labels),
        **more,
    )


if __name__ == "__main__":
    typer.run(main)
