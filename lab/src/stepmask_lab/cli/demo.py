"""stepmask demo: learn, sample, evaluate and draw, on a model that comes with the package."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.arguments import WHAT_MODELS, Folder
from stepmask.cli.common.models import load
from stepmask.cli.common.output import ready_folder, runs_bar, write_json
from stepmask.cli.sample import write_comparison, write_images
from stepmask.cli.show import draw

MODEL = "reference:ddpm-cifar10"
QUICKER = {"coarse": False, "shrink": 0.3, "num_held_back": 4, "graph_bytes": 2**31}
"""Of learning: cell by cell alone, larger steps down to the target, few images beside those that are compared,
more memory than by default."""


@app.command(rich_help_panel="Laboratory")
def demo(
    output: Folder = Path("demo"),
    model: Annotated[str, typer.Option(help=f"{WHAT_MODELS}. It must sample without a prompt.")] = MODEL,
    steps: Annotated[int, typer.Option(min=2, help="Sampling steps.")] = 50,
    target_macs: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the full run's MACs to keep.")] = 0.5,
    rounds: Annotated[
        int, typer.Option(min=0, help="Refining rounds of learning. More of them find better masks.")
    ] = 0,
    gains: Annotated[int, typer.Option(min=0, help="Iterations that learn how far the mask forecasts.")] = 18,
    num_images: Annotated[int, typer.Option(min=1, help="Number of images to compare.")] = 16,
) -> None:
    """Learn a mask for a small trained model, sample with it and compare. This takes a few minutes on two cores."""
    import stepmask

    began, out = time.monotonic(), stdout()
    ready_folder(output)
    pipe = load(model, device="cpu")
    out.print(f"1. selecting what each block does at each of {steps} steps, with {target_macs:.0%} of the MACs:")
    out.print("   compute, hold its last value, or forecast from the last two, and how far")
    mask = stepmask.learn(
        pipe, num_inference_steps=steps, target_macs=target_macs, rounds=rounds, gains=gains, **QUICKER
    )
    mask.save(output / "mask.json")
    out.print("2. sampling with and without the mask, from noise that learning has not seen")
    with runs_bar("sampling") as tell:
        batch_size = max(1, num_images // 2)  # so two of the pairs that are timed make the images
        result = stepmask.evaluate(pipe, mask, seeds=num_images, batch_size=batch_size, progress=tell)
    write_json(output / "evaluation.json", result.to_dict())
    for kind, images in (("full", result.full), ("masked", result.masked)):
        write_images(images, list(result.seeds), output / kind)
    plan = stepmask.make_plan(mask, stepmask.describe(pipe))
    pictures = [
        write_comparison(result.full, result.masked, _notes(result), output),
        *draw(mask, plan, result.macs_fraction, output),
    ]
    out.print(result)
    out.print(f"in {(time.monotonic() - began) / 60:.1f} minutes; look at")
    for path in (*pictures, output / "mask.json", output / "evaluation.json"):
        out.print(f"  {path}")


def _notes(result: Any) -> tuple[str, str]:
    return (
        f"{result.rows} steps, {result.full_macs_per_image / 1e9:.3g} G MACs per image",
        f"{result.macs_fraction:.1%} of the MACs, PSNR {result.psnr.mean:.1f} dB",
    )
