"""Arguments and options that several verbs share, so that they read and mean the same everywhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Id on the Hugging Face hub, folder of a diffusers pipeline, or reference:NAME."
    ),
]
MaskFile = Annotated[
    Path,
    typer.Option(
        "--mask",
        "-m",
        metavar="FILE",
        help="Mask file, as `learn` writes it, or hub:user/name; or a family's, with --at.",
    ),
]
At = Annotated[
    float | None,
    typer.Option(
        "--at",
        metavar="SHARE",
        min=0.0,
        max=1.0,
        help="From a family's file, take its best mask that costs at most this share of the full run, 0.5 for 50%.",
    ),
]
Folder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write to; made if need be.")]
Device = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1, mps, ... By default an accelerator if any.")
]
Conditions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Text file with one prompt, or one class number, per line. By default random classes, or varied prompts.",
    ),
]
NumImages = Annotated[int, typer.Option("--num-images", "-n", min=1, help="Number of images, each with its own seed.")]
FirstSeed = Annotated[int, typer.Option(min=0, max=2**62, help="Seed of the first image; the others follow.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per call of the pipeline.")]

MetricNames = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAME,...",
        help="Score the images too: lpips, clip, fid, sfid, is, kid, precision, recall on their standard networks, "
        "with 'stepmask\\[metrics]' installed; cifar by a small classifier that comes with stepmask, for images like "
        "CIFAR-10. Scores of sets take 512 images and more.",
    ),
]
RealImages = Annotated[
    Path | None,
    typer.Option(
        "--real",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Statistics of real images under Inception (.npz with mu and sigma, as published, or what "
        "FeatureStatistics.save wrote) for fid and its kin. By default the full run's images take their place.",
    ),
]


class DType(str, Enum):
    """Precision of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Precision = Annotated[DType | None, typer.Option("--dtype", help="Precision of the weights; float32 by default.")]


class Scheduler(str, Enum):
    """Names of schedulers; `stepmask.cli.common.models` says which class each is."""

    keep = "keep"
    ddim = "ddim"
    ddpm = "ddpm"
    dpm = "dpm++"
    heun = "heun"
    euler = "euler"
    pndm = "pndm"


SchedulerChoice = Annotated[
    Scheduler,
    typer.Option(
        "--scheduler",
        help="Sampler to use. [b]keep[/b] is the pipeline's own; DDPM pipelines of the hub sample ancestrally, "
        "for few steps choose ddim or dpm++.",
    ),
]
