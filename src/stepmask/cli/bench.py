"""stepmask bench: the results that the README reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepmask.cli._app import app, stdout
from stepmask.cli._arguments import Folder
from stepmask.cli._output import ready_folder


@app.command()
def bench(
    output: Folder = Path("bench"),
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Reference model, may be repeated; by default all.")
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(min=2, help="Sampling steps, may be repeated; by default the README's.")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", "-n", min=1, help="Images per point; by default the README's.")
    ] = None,
    speed: Annotated[bool, typer.Option(help="Measure speed-ups too.")] = True,
    memory: Annotated[bool, typer.Option(help="Measure the peak memory of learning too.")] = True,
) -> None:
    """Run the benchmark: learned masks, FORA and DeepCache on the reference models; takes long."""
    ready_folder(output)
    from stepmask.benchmark import run_benchmark

    chosen = {"models": model or None, "steps": steps or None, "num_images": num_images}
    run_benchmark(output, speed=speed, memory=memory, **{k: v for k, v in chosen.items() if v is not None})
    stdout().print(f"{output}: done")
