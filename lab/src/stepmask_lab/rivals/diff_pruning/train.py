"""Prunes a reference model and trains it on.

The command is ``python -m stepmask_lab.rivals.diff_pruning.train MODEL --data CIFAR10 --output FOLDER --hours 1``.
A run that was stopped goes on where it was when the same command is given again. Ends with ``MODEL.safetensors``, which
`pruned.load_pruned` reads, and ``MODEL.json``, the record.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from stepmask.errors import StepMaskError
from stepmask.inspection.registry import architecture_of
from stepmask_lab import reference
from stepmask_lab.reference.cifar10 import load_cifar10
from stepmask_lab.reference.conditioning import trainable
from stepmask_lab.reference.half_precision import write_weights
from stepmask_lab.reference.losses import denoising_loss
from stepmask_lab.reference.train import (
    ENDLESS_HOURS,
    ENDLESS_IMAGES,
    Budget,
    Hours,
    Images,
    Threads,
    begin,
    encode_all,
    train,
    write_record,
)
from stepmask_lab.rivals.diff_pruning.prune import RATIO, add_gradients, prune
from stepmask_lab.rivals.diff_pruning.pruned import read

NUM_SAMPLES = 16
"""Images that say which channels matter; the authors take 128."""


def samples_of(pipe: Any, pixels: Tensor) -> Tensor:
    """What the denoiser is trained on: pixels as they are, or scaled latents."""
    if not hasattr(pipe, "vae"):
        return pixels
    return encode_all(pipe.vae, pixels) * pipe.vae.config.scaling_factor


def prune_model(pipe: Any, model: nn.Module, samples: Tensor, labels: Tensor, ratio: float) -> dict[str, Any]:
    """Prune the U-Net of a pipeline by what it does to a few samples.

    Returns:
        What the record says of it.
    """
    model.requires_grad_(True).eval()
    few = samples[:NUM_SAMPLES]
    few = few.float() / 127.5 - 1 if few.dtype == torch.uint8 else few
    before = sum(weight.numel() for weight in pipe.unet.parameters())
    timesteps = add_gradients(model, pipe.scheduler, few, labels[:NUM_SAMPLES])
    prune(pipe.unet, architecture_of(pipe.unet).example_inputs(pipe.unet), ratio)
    after = sum(weight.numel() for weight in pipe.unet.parameters())
    return {"ratio": ratio, "timesteps": timesteps, "parameters": after, "parameters_before": before}


def main(
    model: Annotated[str, typer.Argument(help="a reference model with a U-Net")],
    data: Annotated[Path, typer.Option(help="CIFAR-10: a folder or tar archive with train/<class>/*.jpg")],
    output: Annotated[Path, typer.Option(help="folder for checkpoints and the finished weights")],
    ratio: Annotated[float, typer.Option(help="share of the channels that go")] = RATIO,
    hours: Hours = ENDLESS_HOURS,
    images: Images = ENDLESS_IMAGES,
    learning_rate: Annotated[float, typer.Option()] = 4e-4,
    batch_size: Annotated[int, typer.Option()] = 64,
    threads: Threads = 0,
) -> None:
    """Prune one reference model and train it on; give the same command again to go on after a stop."""
    pipe = reference.load(model)
    if not hasattr(pipe, "unet"):
        raise StepMaskError(f"{model} has no U-Net, which Diff-Pruning is for")
    begin(output, hours, images, threads)
    pixels, labels = (torch.from_numpy(array) for array in load_cifar10(data))
    samples, whole, start = samples_of(pipe, pixels), trainable(pipe), output / "pruned.safetensors"
    if not start.exists():
        record = prune_model(pipe, whole, samples, labels, ratio)
        write_weights(whole, start)
        (output / "pruned.json").write_text(json.dumps(record) + "\n")
    read(whole.requires_grad_(True), start)
    budget = Budget(hours=hours, images=images, learning_rate=learning_rate)
    progress = train(whole, denoising_loss(pipe.scheduler), samples, labels, output, budget, batch_size)
    write_weights(whole, output / f"{model}.safetensors")
    record = json.loads((output / "pruned.json").read_text())
    write_record(output / f"{model}.json", f"{model}, pruned", progress, budget, batch_size=batch_size, **record)


if __name__ == "__main__":
    typer.run(main)
