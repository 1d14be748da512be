"""Arguments and options that several verbs share, so that they read and mean the same everywhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from stepmask import plugins
from stepmask.errors import StepMaskError

WHAT_MODELS = ", ".join(
    [
        "A model on the Hugging Face hub by its id, a folder that save_pretrained wrote",
        *(f"or {prefix}:NAME ({source.help})" for prefix, source in plugins.model_sources().items()),
    ]
)
"""What MODEL may be."""

Model = Annotated[str, typer.Argument(metavar="MODEL", help=f"{WHAT_MODELS}.")]
FITS_EVERY_SCHEDULER = (
    "preset:NAME, which needs no weights. With a preset the mask has the timesteps of DDIM or of --scheduler, and fits "
    "every scheduler."
)
"""What MODEL may be besides, where a mask is made without running it."""

MaskArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MASK",
        help="File or folder with a mask or a recipe, or USER/NAME. With --at it holds a family of masks.",
    ),
]
MaskFile = Annotated[
    Path,
    typer.Option(
        "--mask",
        "-m",
        metavar="FILE",
        help="File or folder with a mask or a recipe, or USER/NAME for one on the Hugging Face hub. With --at it holds "
        "a family of masks.",
    ),
]
At = Annotated[
    float | None,
    typer.Option(
        "--at",
        metavar="SHARE",
        min=0.0,
        help="Take from a family of masks the best one that costs at most this share of the full run's MACs; 0.5 is "
        "50%. Of a frontier, as [b]stepmask optimise[/b] writes it, the best recipe of at most so many evaluations.",
    ),
]
Folder = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write to; it is made if it is not there.")
]
MaskOutput = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Name of the mask file.")]


def _refuse_steps(value: str | None) -> None:
    if value is not None:
        raise StepMaskError("the number of steps comes from the mask: leave --steps out; learn and schedule take it")


NoSteps = Annotated[
    str | None, typer.Option("--steps", hidden=True, callback=_refuse_steps, help="Not taken: the mask has its steps.")
]
"""Of verbs that run a mask: whoever asks for a number of steps is told that the mask has it."""
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Where to run: cpu, cuda, cuda:1, mps, ... The default is an accelerator if there is one; for several "
        "processes that learn together, one for each.",
    ),
]
CacheDevice = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Where cached values wait until they are read: cpu keeps them off an accelerator that has no room for "
        "them. The default is where they were computed.",
    ),
]
Conditions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Text file with one prompt or one class number per line. The default is random classes or varied prompts.",
    ),
]
NumImages = Annotated[int, typer.Option("--num-images", "-n", min=1, help="Number of images, each with its own seed.")]
FirstSeed = Annotated[int, typer.Option(min=0, max=2**62, help="Seed of the first image; the others follow.")]
Speed = Annotated[bool, typer.Option(help="Measure the speed-up, by full and masked runs in turns.")]
AgainstConverged = Annotated[
    bool,
    typer.Option(
        "--converged",
        help="Compare with the run of so many steps that more of them change nothing, in the place of the plain run of "
        "the same number of steps.",
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep the state here; after an interrupt the same command goes on from it."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Number of images that are made at once.")]

MetricNames = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAME,...",
        help=f"Metrics to compute of the images beside PSNR and SSIM. {plugins.metrics_help()}",
    ),
]
RealImages = Annotated[
    Path | None,
    typer.Option(
        "--real",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="File with statistics of real images, which fid, sfid and kid compare with: a published .npz file, or one "
        "that FeatureStatistics.save wrote. Without it they compare with the images of the full run.",
    ),
]


class DType(str, Enum):
    """Precision of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Precision = Annotated[DType | None, typer.Option("--dtype", help="Precision of the weights. The default is float32.")]


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
        help="Scheduler to sample with. [b]keep[/b] takes the pipeline's own. DDPM pipelines on the hub need hundreds "
        "of steps with theirs: choose [b]ddim[/b] or [b]dpm++[/b] for few steps.",
    ),
]


def shares(text: str) -> tuple[float, ...]:
    """Budgets from the text of ``--targets``, which separates them by commas.

    Raises:
        StepMaskError: The text is no list of shares between 0 and 1.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share <= 1 for share in found):
        raise StepMaskError(f"--targets takes shares between 0 and 1, 0.7,0.6,0.5 for example, got {text!r}")
    return found


def metrics_for(names: str | None, real: Path | None) -> plugins.Metrics | None:
    """The metrics of ``--metrics`` and ``--real``; None where they were not given.

    Raises:
        StepMaskError: There is no metric of a name, or its packages or weights are missing.
    """
    if names:
        return plugins.load_metrics(names, real)
    if real is not None:
        raise StepMaskError("--real is the reference set of fid and its kin: ask for them with --metrics fid,kid")
    return None
