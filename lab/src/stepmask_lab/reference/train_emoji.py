"""Trains the model of emoji: ``python -m stepmask_lab.reference.train_emoji --icons FOLDER --output FOLDER``.

Two stages: the autoencoder of CIFAR-10 is trained on, then transformer and text encoder together on its latents. The
same command goes on after a stop or a kill. Each stage has a folder in OUTPUT, which at each checkpoint gets a sheet of
samples above the real pictures, and the record of the loss, a line of JSON for each point. The pipeline is written to
``OUTPUT/pipeline`` at each checkpoint too, so that `judge_emoji` can look at an unfinished one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL
from torch import Tensor, nn

from stepmask.pictures.image_sheets import tiles
from stepmask_lab import reference
from stepmask_lab.reference import checkpoints, configurations, emoji
from stepmask_lab.reference.conditioning import trainable
from stepmask_lab.reference.losses import denoising_loss, reconstruction_loss
from stepmask_lab.reference.train import (
    ENDLESS_HOURS,
    Budget,
    Progress,
    Threads,
    begin,
    encode_all,
    train,
    write_record,
)

MODEL = "pixart-emoji"
FIRST_STAGE = "pixart-cifar10"
"""The model whose autoencoder the first stage begins with."""
DATA = "Noto Emoji (Google, Apache-2.0) and Fluent Emoji (Microsoft, MIT)"
KL_WEIGHT = 1e-3
"""Ten times that of CIFAR-10: latents then hold what pictures need, and the decoder bears errors in them."""
SHEET_COLUMNS = 16
BATCH_SIZE = 16
CHECKPOINT_MINUTES = 10.0


def standardise(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Let each channel of what `vae` encodes have mean 0 and variance 1, and its decoder undo that.

    Both are linear, and become part of the convolutions before and after the latents.

    Args:
        vae: Changed in place.
        latents: (N, C, H, W), what it encodes.

    Returns:
        The latents, as it encodes them now.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    with torch.no_grad():
        inwards, outwards = vae.quant_conv, vae.post_quant_conv
        outwards.bias += outwards.weight[:, :, 0, 0] @ mean
        outwards.weight *= std[None, :, None, None]
        inwards.bias[:channels] = (inwards.bias[:channels] - mean) / std
        inwards.weight[:channels] /= std[:, None, None, None]
        inwards.bias[channels:] -= 2 * std.log()
    return (latents - mean[:, None, None]) / std[:, None, None]


def recorder(folder: Path, sheet: Callable[[], Tensor]) -> Callable[[Progress], None]:
    """What writes the record of a stage and a sheet of pictures when a checkpoint is made."""

    def write(progress: Progress) -> None:
        lines = (json.dumps({"images": count, "loss": loss}) + "\n" for count, loss in progress.curve)
        (folder / "curve.jsonl").write_text("".join(lines))
        tiles(sheet(), SHEET_COLUMNS).save(folder / f"sheet-{progress.images:09}.png")

    return write


def shown() -> list[int]:
    """Labels that sheets show: two held-out pairs, then some that are trained on."""
    held_out, seen = np.flatnonzero(emoji.held_out()), np.flatnonzero(~emoji.held_out())
    places = np.linspace(0, 1, SHEET_COLUMNS - 2, endpoint=False)
    return [*held_out[[0, -1]].tolist(), *seen[(places * len(seen)).astype(int)].tolist()]


def train_autoencoder(images: Tensor, seen: Tensor, folder: Path, num_images: int, precision: str) -> AutoencoderKL:
    """Train the first stage, unless ``folder/vae`` has it; its latents are standardised."""
    if not checkpoints.found(folder / "vae"):
        vae = configurations.autoencoder_emoji().to(memory_format=torch.channels_last)
        start = AutoencoderKL.from_pretrained(reference.folder(FIRST_STAGE) / "vae")
        vae.load_state_dict({name: value for name, value in start.state_dict().items() if name in vae.state_dict()})
        real = images[shown()].float() / 255

        @torch.no_grad()
        def sheet() -> Tensor:
            return torch.cat([vae(real * 2 - 1).sample / 2 + 0.5, real])

        budget = Budget(hours=ENDLESS_HOURS, images=num_images, learning_rate=1e-3, warmup_images=256)
        progress = train(
            vae, reconstruction_loss(KL_WEIGHT), images[seen], seen, folder, budget,
            batch_size=4, checkpoint_minutes=CHECKPOINT_MINUTES, precision=precision,
            at_checkpoint=recorder(folder, sheet),
        )  # fmt: skip
        standardise(vae, encode_all(vae, images[seen], precision=precision))
        more = {"start": FIRST_STAGE, "batch_size": 4, "kl_weight": KL_WEIGHT}
        write_record(folder / "training.json", f"{MODEL}, autoencoder", progress, budget, DATA, **more)
        checkpoints.replace(folder / "vae", vae.half().save_pretrained)
    return AutoencoderKL.from_pretrained(folder / "vae").float()


def train_transformer(
    images: Tensor, seen: Tensor, vae: AutoencoderKL, output: Path, budget: Budget, precision: str
) -> None:
    """Train the second stage; the pipeline as it is goes to ``output/pipeline`` at each checkpoint."""
    folder = output / "transformer"
    pipe = configurations.pixart_emoji()
    pipe.register_modules(vae=vae)
    pipe.to(vae.device)
    pipe.set_progress_bar_config(disable=True)
    prompts, real = [emoji.CAPTIONS[label][0] for label in shown()], images[shown()].float() / 255
    first_stage = json.loads((output / "autoencoder" / "training.json").read_text())

    def sheet() -> Tensor:
        made = pipe(prompts, num_inference_steps=10, generator=torch.Generator().manual_seed(0), output_type="pt")
        return torch.cat([made.images.cpu(), real])

    record = recorder(folder, sheet)

    def write(progress: Progress) -> None:
        def save(fresh: Path) -> None:
            save_halved(pipe, fresh)
            more = {"batch_size": BATCH_SIZE, "autoencoder": first_stage}
            write_record(fresh / "training.json", MODEL, progress, budget, DATA, **more)

        record(progress)
        checkpoints.replace(output / "pipeline", save)

    train(
        trainable(pipe, emoji.CAPTIONS), denoising_loss(pipe.scheduler),
        encode_all(vae, images[seen], precision=precision), seen, folder, budget,
        batch_size=BATCH_SIZE, checkpoint_minutes=CHECKPOINT_MINUTES, precision=precision, at_checkpoint=write,
    )  # fmt: skip


def save_halved(pipe: Any, folder: Path) -> None:
    """Save a pipeline in float16, and leave it in float32."""
    halved = copy.deepcopy({name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)})
    parts = {**pipe.components, **{name: part.half() for name, part in halved.items()}}
    type(pipe)(**parts).save_pretrained(folder)


def main(
    icons: Annotated[Path, typer.Option(help="folder that npm installed the packages of icons in")],
    output: Annotated[Path, typer.Option(help="folder for checkpoints, sheets and the pipeline")],
    cache: Annotated[Path | None, typer.Option(help="folder for the rendered pictures; by default, in OUTPUT")] = None,
    images: Annotated[int, typer.Option(help="that the transformer sees, until its learning rate is 0")] = 1_000_000,
    autoencoder_images: Annotated[int, typer.Option(help="that the autoencoder sees")] = 3_000,
    learning_rate: Annotated[float, typer.Option()] = 7e-4,
    threads: Threads = 0,
) -> None:
    """Train both stages; give the same command again to go on after a stop."""
    for stage in ("autoencoder", "transformer"):
        begin(output / stage, ENDLESS_HOURS, images, threads)
    pixels = torch.from_numpy(emoji.load_emoji(icons, cache or output / "cache"))
    seen = torch.from_numpy(np.flatnonzero(~emoji.held_out()))
    precision, device = ("bf16", "cuda") if torch.cuda.is_available() else ("no", "cpu")
    vae = train_autoencoder(pixels, seen, output / "autoencoder", autoencoder_images, precision).to(device)
    budget = Budget(hours=ENDLESS_HOURS, images=images, learning_rate=learning_rate, warmup_images=200 * BATCH_SIZE)
    train_transformer(pixels, seen, vae, output, budget, precision)


if __name__ == "__main__":
    typer.run(main)
