"""stepmask bench: the results that the README reports."""

from __future__ import annotations

from pathlib import Path

from stepmask.cli._app import app, stdout
from stepmask.cli._arguments import Folder
from stepmask.cli._output import ready_folder


@app.command()
def bench(output: Folder = Path("bench")) -> None:
    """Run the benchmark: learned masks, FORA and DeepCache on the reference models; takes long."""
    ready_folder(output)
    from stepmask.benchmark import run_benchmark

    run_benchmark(output)
    stdout().print(f"{output}: done")
