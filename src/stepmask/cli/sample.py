"""stepmask sample: images under a mask, and beside them the full run's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepmask.cli._app import app, stdout
from stepmask.cli._arguments import (
    At,
    BatchSize,
    Conditions,
    Device,
    FirstSeed,
    Folder,
    Guidance,
    MaskFile,
    Model,
    NumImages,
    Precision,
)
from stepmask.cli._mask_files import load_mask
from stepmask.cli._models import guidance_kwargs, load
from stepmask.cli._output import ready_folder
from stepmask.cli._progress import runs_bar


@app.command()
def sample(
    model: Model,
    mask: MaskFile,
    output: Folder,
    at: At = None,
    num_images: NumImages = 16,
    first_seed: FirstSeed = 10_000,
    batch_size: BatchSize = 16,
    compare: Annotated[bool, typer.Option(help="Also make the full run's images and show both side by side.")] = True,
    guidance_scale: Guidance = None,
    conditions: Conditions = None,
    device: Device = None,
    dtype: Precision = None,
) -> None:
    """Sample images from MODEL under a mask, with the mask's scheduler and steps."""
    import stepmask
    from stepmask.evaluation import sampler_for
    from stepmask.evaluation.sampled import sample_masked, sample_pairs
    from stepmask.report import save_png, side_by_side

    decision = load_mask(mask, at)
    ready_folder(output)
    pipe = load(model, mask=decision, device=device, dtype=dtype)
    sampler, seeds = sampler_for(
        pipe,
        decision,
        range(first_seed, first_seed + num_images),
        call_kwargs=guidance_kwargs(guidance_scale),
        conditions=conditions,
    )
    out = stdout()
    with runs_bar("sampling") as tell:
        if compare:
            pairs = sample_pairs(sampler, seeds, batch_size, progress=tell)
            made = {"masked": pairs.masked, "full": pairs.full}
        else:
            made = {"masked": sample_masked(sampler, seeds, batch_size, progress=tell)}
    for kind, images in made.items():
        write_images(images, seeds, output / kind)
        out.print(f"{output / kind}: {len(images)} images")
    if compare:
        plan = sampler.ran or sampler.plan
        share = stepmask.measure_cost(pipe, call_kwargs=sampler.call_kwargs).fraction(plan)
        picture = side_by_side(
            made["full"],
            made["masked"],
            notes=(f"{plan.num_rows} steps", f"{share:.1%} of the MACs, same seeds"),
        )
        out.print(str(save_png(picture, output / "side_by_side.png")))


def write_images(images: Any, seeds: list[int], folder: Path) -> None:
    """Write one PNG per image, named after its seed, every pixel as it was made."""
    from PIL import Image

    from stepmask.report import save_png
    from stepmask.report.pictures import to_pixels

    ready_folder(folder)
    for seed, pixels in zip(seeds, to_pixels(images), strict=True):
        save_png(Image.fromarray(pixels), folder / f"{seed:06d}.png")
