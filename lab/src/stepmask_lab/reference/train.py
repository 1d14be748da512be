"""Trains the reference models: ``python -m stepmask_lab.reference.train MODEL --data CIFAR10 --output FOLDER``.

Runs for a number of hours or of images, whichever ends first; a run that was stopped goes on where it was when the
same command is given again. Ends with a diffusers pipeline (EMA weights in float16) and ``training.json``, the record.

What is minimised stands in `losses`, what is trained of a pipeline in `conditioning`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from stepmask.errors import StepMaskError
from stepmask_lab.reference import checkpoints, configurations
from stepmask_lab.reference.cifar10 import load_cifar10
from stepmask_lab.reference.conditioning import trainable
from stepmask_lab.reference.losses import Loss, denoising_loss, reconstruction_loss

AUTOENCODER = "autoencoder-cifar10"
CURVE_BATCHES = 100
"""Batches that a point of the loss curve is the mean of."""
ENDLESS_HOURS, ENDLESS_IMAGES = 1e9, 10**12

Hours = Annotated[float, typer.Option(help="stop after so many hours of training")]
Images = Annotated[int, typer.Option(help="stop after so many images")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice")]


@dataclass
class Progress:
    """How far a training is; saved with every checkpoint."""

    images: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)

    def state_dict(self) -> dict:
        """For the checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """From a checkpoint."""
        self.images, self.seconds, self.curve = state["images"], state["seconds"], list(state["curve"])
        self.core_seconds = state["core_seconds"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop, and the learning rate on the way: linear warm-up, then cosine decay to zero."""

    hours: float
    images: int
    learning_rate: float
    warmup_images: int = 12_800

    def done(self, progress: Progress) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        return min(1.0, max(progress.seconds / (3600 * self.hours), progress.images / self.images))

    def rate(self, progress: Progress) -> float:
        """Learning rate of the next step."""
        warmup = min(1.0, (progress.images + 1) / self.warmup_images)
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * self.done(progress)))

    def hours_left(self, progress: Progress) -> float:
        """Hours to the end at the speed so far."""
        done = self.done(progress)
        return progress.seconds / 3600 * (1 - done) / done


class Watch:
    """Counts the images and seconds of a training, says now and then how it goes, and when to save.

    Args:
        progress: Where it counts.
        name: Of the training, as it is printed.
        checkpoint_minutes: Between two checkpoints.
    """

    def __init__(self, progress: Progress, name: str, checkpoint_minutes: float) -> None:
        self._progress, self._name, self._checkpoint_minutes = progress, name, checkpoint_minutes
        self._clock = self._saved = time.monotonic()
        self._core_clock = time.process_time()
        self._recent: list[float] = []

    def after_batch(self, num_images: int, loss: float) -> None:
        """Count a batch."""
        progress, now, core_now = self._progress, time.monotonic(), time.process_time()
        progress.images += num_images
        progress.seconds += now - self._clock
        progress.core_seconds += core_now - self._core_clock
        self._clock, self._core_clock = now, core_now
        self._recent.append(loss)
        if len(self._recent) == CURVE_BATCHES:
            mean = sum(self._recent) / CURVE_BATCHES
            self._recent = []
            progress.curve.append((progress.images, round(mean, 5)))
            minutes = f"{progress.seconds / 60:.1f} min"
            print(f"{self._name}: {progress.images:,} images, {minutes}, loss {mean:.4f}", flush=True)

    def checkpoint_due(self) -> bool:
        """Whether it is time for a checkpoint, which counts as made then."""
        due = self._clock - self._saved > 60 * self._checkpoint_minutes
        if due:
            self._saved = self._clock
        return due


def batches(images: Tensor, labels: Tensor, batch_size: int, start: int, seed: int = 0):
    """Yield endless shuffled batches, `start` images have been drawn before; pixels (uint8) are flipped at random."""
    per_epoch = len(images) - len(images) % batch_size
    if not per_epoch:
        raise StepMaskError(f"{len(images)} images make no batch of {batch_size}: give a smaller --batch-size")
    epoch, offset = divmod(start, per_epoch)
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(images), generator=generator)
        for begin in range(offset, per_epoch, batch_size):
            rows = order[begin : begin + batch_size]
            batch = images[rows]
            if batch.dtype == torch.uint8:
                batch = batch.float() / 127.5 - 1
                flip = torch.rand(batch_size, 1, 1, 1) < 0.5
                batch = torch.where(flip, batch.flip(-1), batch)
            yield batch, labels[rows]
        epoch, offset = epoch + 1, 0


def train(
    model: nn.Module,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    folder: Path,
    budget: Budget,
    batch_size: int = 64,
    checkpoint_minutes: float = 5.0,
    precision: str = "bf16",
    at_checkpoint: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train `model` in place and leave it with its EMA weights.

    Checkpoints go to ``folder/checkpoint`` every few minutes; where one exists, training goes on from it.

    Args:
        model: What is trained.
        loss: What is minimised.
        images: (N, C, H, W), pixels (uint8) or latents.
        labels: (N,).
        folder: For checkpoints.
        budget: When to stop.
        batch_size: Images in each step.
        checkpoint_minutes: Between two checkpoints.
        precision: "bf16" or "no", as accelerate calls it.
        at_checkpoint: Called after each checkpoint, with the EMA weights in the model.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())  # faster than fused attention for so few tokens, backward above all
    accelerator = Accelerator(mixed_precision=precision)
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate, weight_decay=0.01, fused=True)
    ema = EMAModel(model.parameters(), decay=0.999)
    progress = Progress()
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(ema, progress)
    ema.to(accelerator.device)
    checkpoint = folder / "checkpoint"
    if checkpoints.found(checkpoint):
        accelerator.load_state(str(checkpoint))
    model.train()

    def save() -> None:
        checkpoints.replace(checkpoint, lambda fresh: accelerator.save_state(str(fresh)))
        print(f"{folder.name}: checkpoint, about {budget.hours_left(progress):.1f} hours to go", flush=True)
        if at_checkpoint:
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            at_checkpoint(progress)
            ema.restore(model.parameters())
            model.train()

    watch = Watch(progress, folder.name, checkpoint_minutes)
    for batch, label in batches(images, labels, batch_size, progress.images):
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(progress)
        with accelerator.autocast():
            value = loss(model, batch.to(accelerator.device), label.to(accelerator.device))
        accelerator.backward(value)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        watch.after_batch(batch_size, value.item())
        if budget.done(progress) >= 1:
            break
        if watch.checkpoint_due():
            save()
    save()
    ema.copy_to(accelerator.unwrap_model(model).parameters())
    return progress


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: Tensor, batch_size: int = 250, precision: str = "bf16") -> Tensor:
    """Latent means of uint8 images, not yet scaled."""
    vae.eval()
    chunks = images.split(batch_size)
    with torch.autocast(vae.device.type, torch.bfloat16, enabled=precision == "bf16"):
        latents = [vae.encode((c.to(vae.device).float() / 127.5) - 1).latent_dist.mean.float().cpu() for c in chunks]
    return torch.cat(latents)


def write_record(
    path: Path, name: str, progress: Progress, budget: Budget, data: str = "CIFAR-10, train split", **more
) -> None:
    """Write ``training.json``: what was trained, on what machine, for how long, with which loss curve."""
    machine = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {os.cpu_count()} cores, {platform.machine()}"
    )
    record = {
        "model": name,
        "data": data,
        "images_seen": progress.images,
        "hours": round(progress.seconds / 3600, 3),
        "core_hours": round(progress.core_seconds / 3600, 3),
        "machine": f"{machine}, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__.split("+")[0],
        "learning_rate": budget.learning_rate,
        **more,
        "loss_curve": progress.curve,
    }
    path.write_text(json.dumps(record) + "\n")


def train_autoencoder(pixels: Tensor, labels: Tensor, output: Path, budget: Budget, batch_size: int) -> None:
    """Train the first stage; ends with ``vae`` and ``training.json`` in `output`."""
    vae = configurations.autoencoder_cifar10()
    progress = train(vae, reconstruction_loss(), pixels, labels, output, budget, batch_size)
    latents = encode_all(vae, pixels[:10_000])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    vae.half().save_pretrained(output / "vae")
    write_record(output / "training.json", AUTOENCODER, progress, budget, batch_size=batch_size)


def train_pipeline(
    name: str, images: Tensor, labels: Tensor, output: Path, budget: Budget, batch_size: int, autoencoder: Path | None
) -> None:
    """Train a denoiser and what tells it what to draw; ends with ``pipeline`` in `output`, ``training.json`` in it."""
    pipe = configurations.BUILDERS[name]()
    more = {"batch_size": batch_size}
    if hasattr(pipe, "vae"):
        if autoencoder is None:
            raise StepMaskError(f"{name} is trained on latents: train {AUTOENCODER} first, then give --autoencoder")
        vae = AutoencoderKL.from_pretrained(autoencoder / "vae").float()
        images = encode_all(vae, images) * vae.config.scaling_factor
        pipe.register_modules(vae=vae)
        first_stage = json.loads((autoencoder / "training.json").read_text())
        more["autoencoder"] = first_stage.get("autoencoder", first_stage)
    progress = train(trainable(pipe), denoising_loss(pipe.scheduler), images, labels, output, budget, batch_size)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            module.half()
    pipe.save_pretrained(output / "pipeline")
    write_record(output / "pipeline/training.json", name, progress, budget, **more)


def begin(output: Path, hours: float, images: int, threads: int) -> None:
    """What every training begins with: a number of threads, a folder, a seed.

    Raises:
        StepMaskError: It would never end.
    """
    if hours >= ENDLESS_HOURS and images >= ENDLESS_IMAGES:
        raise StepMaskError("say when to stop: --hours or --images")
    if threads:
        torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)


def main(
    model: Annotated[str, typer.Argument(help=f"{AUTOENCODER}, {', '.join(configurations.BUILDERS)}")],
    data: Annotated[Path, typer.Option(help="CIFAR-10: a folder or tar archive with train/<class>/*.jpg")],
    output: Annotated[Path, typer.Option(help="folder for checkpoints and the finished pipeline")],
    hours: Hours = ENDLESS_HOURS,
    images: Images = ENDLESS_IMAGES,
    learning_rate: Annotated[float, typer.Option()] = 1e-3,
    batch_size: Annotated[int, typer.Option()] = 64,
    autoencoder: Annotated[
        Path | None, typer.Option(help=f"for latent models: a finished {AUTOENCODER}, or a pipeline that has one")
    ] = None,
    threads: Threads = 0,
) -> None:
    """Train one reference model; give the same command again to go on after a stop."""
    if model not in (AUTOENCODER, *configurations.BUILDERS):
        known = ", ".join((AUTOENCODER, *configurations.BUILDERS))
        raise StepMaskError(f"unknown reference model {model!r}; there are {known}")
    begin(output, hours, images, threads)
    budget = Budget(hours=hours, images=images, learning_rate=learning_rate)
    pixels, labels = (torch.from_numpy(array) for array in load_cifar10(data))
    if model == AUTOENCODER:
        train_autoencoder(pixels, labels, output, budget, batch_size)
    else:
        train_pipeline(model, pixels, labels, output, budget, batch_size, autoencoder)


if __name__ == "__main__":
    typer.run(main)
