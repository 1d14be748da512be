"""stepmask bench: the results that the README reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepmask.cli._app import app, stdout
from stepmask.cli._arguments import Folder
from stepmask.cli._output import ready_folder

if TYPE_CHECKING:
    from rich.table import Table


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
    transfer: Annotated[
        bool, typer.Option(help="Measure what masks are worth outside of what they were learned for too.")
    ] = False,
) -> None:
    """Compare learned masks with FORA and DeepCache, with and without forecasts; some hours on two cores.

    What the folder holds already is not measured again, so an interrupted benchmark goes on where it was.
    """
    ready_folder(output)
    from stepmask._files import write_atomically
    from stepmask.benchmark import run_benchmark
    from stepmask.report import curve, markdown_table, save_png, transfer_table

    chosen = {"models": model or None, "steps": steps or None, "num_images": num_images}
    rows = run_benchmark(
        output, speed=speed, memory=memory, transfer=transfer, **{k: v for k, v in chosen.items() if v is not None}
    )
    if rows:
        stdout().print(_table(rows))
        save_png(curve(rows), output / "curve.png")
        write_atomically(output / "results.md", markdown_table(rows))
        stdout().print(
            f"look at {output / 'curve.png'} and {output / 'results.md'}; raw results are the JSON files there"
        )
    found = [json.loads(path.read_text()) for path in sorted(output.glob("transfer-*.json"))]
    if found:
        write_atomically(output / "transfer.md", transfer_table(found))
        stdout().print(f"and at {output / 'transfer.md'}")


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(title="PSNR against the full run", title_justify="left")
    for column in ("model", "steps", "method", "setting", "MACs", "PSNR mean", "worst", "SSIM"):
        table.add_column(column, justify="left" if column in ("model", "method") else "right")
    for row in sorted(rows, key=lambda row: (row["model"], -row["steps"], row["method"], -row["macs"])):
        ssim = "-" if row["ssim_mean"] is None else f"{row['ssim_mean']:.3f}"
        psnr = f"{row['psnr_mean']:.1f} ± {row['psnr_sem']:.1f}", f"{row['psnr_min']:.1f}"
        macs = f"{row['macs']:.1%}"
        table.add_row(row["model"], str(row["steps"]), row["method"], row["setting"], macs, *psnr, ssim)
    return table
