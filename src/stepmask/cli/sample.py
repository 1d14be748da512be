"""stepmask sample: images under a mask, and beside them the full run's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepmask.cli.common import arguments as shared
from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.call_arguments import Call, Guidance, call_kwargs
from stepmask.cli.common.models import load
from stepmask.cli.common.output import runs_bar
from stepmask.cost import BATCH_SIZE
from stepmask.files import ready_folder
from stepmask.sources import load_one
from stepmask.words import duration


@app.command()
def sample(
    model: shared.Model,
    mask: shared.MaskFile,
    output: shared.Folder = Path("samples"),
    at: shared.At = None,
    num_images: shared.NumImages = 16,
    first_seed: shared.FirstSeed = 10_000,
    batch_size: shared.BatchSize = BATCH_SIZE,
    compare: Annotated[bool, typer.Option(help="Sample without the mask too, and write both side by side.")] = True,
    guidance_scale: Guidance = None,
    conditions: shared.Conditions = None,
    call: Call = None,
    device: shared.Device = None,
    dtype: shared.Precision = None,
    cache_device: shared.CacheDevice = None,
    steps: shared.NoSteps = None,
) -> None:
    """Sample images from MODEL with a mask or a recipe, by the scheduler and the steps that it was made for."""
    decision, given = load_one(mask, at=at), call_kwargs(guidance_scale, call)
    ready_folder(output)  # what is wrong so far is said before torch is imported, which takes seconds

    from stepmask.evaluation import sampler_for
    from stepmask.evaluation.sampler import sample_masked, sample_pairs

    pipe = load(model, mask=decision, device=device, dtype=dtype)
    wanted, out = range(first_seed, first_seed + num_images), stdout()
    options = {"call_kwargs": given, "conditions": conditions, "cache_device": cache_device}
    sampler, seeds = sampler_for(pipe, decision, wanted, **options)
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
        out.print(", ".join(f"{kind} {duration(seconds)}" for kind, seconds in pairs.seconds.items()))
        work, rows = sampler.work(), (sampler.ran or sampler.plan).num_rows
        notes = f"{rows} steps", f"{work.fraction:.1%} of the MACs, same seeds"
        out.print(str(write_comparison(made["full"], made["masked"], notes, output)))


def write_images(images: Any, seeds: list[int], folder: Path) -> None:
    """Write a PNG per image, or an animated WebP per video, named after its seed, every pixel as it was made."""
    from PIL import Image

    from stepmask.pictures import save_animation, save_png
    from stepmask.pictures.image_sheets import to_pixels

    ready_folder(folder)
    for seed, image in zip(seeds, images, strict=True):
        frames = [Image.fromarray(pixels) for pixels in to_pixels(image if _is_video(image) else image[None])]
        if _is_video(image):
            save_animation(frames, folder / f"{seed:06d}.webp")
        else:
            save_png(frames[0], folder / f"{seed:06d}.png")


def write_comparison(full: Any, masked: Any, notes: tuple[str, str], folder: Path) -> Path:
    """Write images or videos of both runs side by side, and say where."""
    from stepmask.pictures import save_animation, save_png, side_by_side

    if not _is_video(full[0]):
        return save_png(side_by_side(full, masked, notes=notes), folder / "side_by_side.png")
    frames = [side_by_side(full[:, i], masked[:, i], notes=notes) for i in range(full.shape[1])]
    return save_animation(frames, folder / "side_by_side.webp")


def _is_video(sample: Any) -> bool:
    """Whether it is (frames, C, H, W), and no image (C, H, W)."""
    return sample.ndim == 4
