"""stepmask benchmark: methods x budgets on one model; without a model, the results that the README reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepmask.cli.common.app import app, stderr, stdout
from stepmask.cli.common.arguments import (
    WHAT_MODELS,
    BatchSize,
    Conditions,
    Device,
    Folder,
    MetricNames,
    Precision,
    RealImages,
    Scheduler,
    SchedulerChoice,
    metrics_for,
    shares,
)
from stepmask.cli.common.call_arguments import Call, Guidance, call_kwargs
from stepmask.cli.common.models import load
from stepmask.errors import StepMaskError
from stepmask.files import ready_folder
from stepmask_lab.cli._pages import write_pages

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_BATCH = 16


@app.command(rich_help_panel="Laboratory")
def benchmark(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help=f"{WHAT_MODELS}. Without it all reference models are measured, at 50 and 20 steps unless --steps says "
            "otherwise, which takes hours.",
        ),
    ] = None,
    output: Folder = Path("benchmark"),
    steps: Annotated[
        list[int] | None, typer.Option(min=2, help="Sampling steps, 20 by default. May be given several times.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Measure only these methods, such as fora,end-to-end. [b]shipped[/b] stands for all rivals as they "
            "ship, [b]studies[/b] for all variants of our own masks, [b]of-2026[/b] for the rivals of 2026. A name "
            "that is unknown lists all methods.",
        ),
    ] = None,
    targets: Annotated[
        str, typer.Option(metavar="SHARE,...", help="Budgets of the learned masks, as shares of the full run's MACs.")
    ] = "0.7,0.6,0.5,0.4,0.3",
    num_images: Annotated[
        int, typer.Option("--num-images", "-n", min=1, help="Number of images per row of the tables.")
    ] = 64,
    batch_size: BatchSize = DEFAULT_BATCH,
    scheduler: SchedulerChoice = Scheduler.keep,
    guidance_scale: Guidance = None,
    conditions: Conditions = None,
    call: Call = None,
    speed: Annotated[
        bool,
        typer.Option(
            help="Measure speed-ups after all images are made, also of rows that an earlier run measured without."
        ),
    ] = True,
    metrics: MetricNames = None,
    real: RealImages = None,
    memory: Annotated[bool, typer.Option(help="Without MODEL, measure the peak memory of learning too.")] = True,
    transfer: Annotated[
        bool,
        typer.Option(
            help="Without MODEL, measure masks also where they were not learned: at other steps, guidance, classes, ..."
        ),
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Measure nothing: write the page of what --output holds into this folder, with its pictures and raw "
            "results.",
        ),
    ] = None,
    device: Device = None,
    dtype: Precision = None,
) -> None:
    """Compare learned masks with every rival, on the same executor, seeds and clock.

    What the folder holds already is not measured again, so a stopped benchmark continues where it was. Speed-ups want a
    quiet machine: run with --no-speed first and without it later. For several processes, each of which measures a part,
    start it with `accelerate launch --no-python stepmask benchmark ...`.
    """
    from stepmask_lab.benchmark import Comparison, Subject, methods_by_name

    if page is not None:
        write_pages(output, page)
        return
    picked, budgets, given_call = methods_by_name(methods), shares(targets), call_kwargs(guidance_scale, call)
    measure = metrics_for(metrics, real)
    ready_folder(output)
    alone = {
        "--device": device,
        "--dtype": dtype,
        "--guidance-scale": guidance_scale,
        "--conditions": conditions,
        "--call": call or None,
    }
    alone |= {"--scheduler": None if scheduler == Scheduler.keep else scheduler}
    alone |= {"--batch-size": None if batch_size == DEFAULT_BATCH else batch_size}
    given = [name for name, value in alone.items() if value is not None]
    if model is None and given:
        raise StepMaskError(f"{', '.join(given)} needs a MODEL: without one all reference models run as they are")
    if model is not None and transfer:
        raise StepMaskError("--transfer measures masks of the reference models: leave MODEL out")
    if model is None:
        from stepmask_lab.benchmark import run_benchmark

        given = {"steps": steps or None, "num_images": num_images}
        rows = run_benchmark(
            output,
            chosen=picked,
            targets=budgets,
            speed=speed,
            metrics=measure,
            memory=memory,
            transfer=transfer,
            **{name: value for name, value in given.items() if value is not None},
        )
    else:
        from stepmask.inspection.pipeline_call import PipelineCall

        pipe = load(model, scheduler=scheduler, device=device, dtype=dtype)
        PipelineCall(pipe).check(given_call)
        if measure is not None:
            measure.check(pipe)
        options = {
            "num_images": num_images,
            "batch_size": batch_size,
            "speed": speed,
            "metrics": measure,
        }
        folder = Path(model)
        name = folder.resolve().name if folder.is_dir() else model.rpartition(":")[2].replace("/", "--")
        rows = []
        for count in steps or [20]:
            subject = Subject(pipe, count, given_call, conditions, budgets)
            rows = _part_of_this_process(Comparison(name, subject, output, tell=stderr().print, **options), picked)
    if rows:
        stdout().print(_table(rows))
        write_pages(output, output)


def _part_of_this_process(comparison: Any, picked: list[Any]) -> list[dict[str, Any]]:
    """Measure; the first of several processes then returns what all have measured."""
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes > 1:
        comparison.subject.pipe.to(state.device)
    comparison.run(picked, state.process_index, state.num_processes)
    state.wait_for_everyone()
    return comparison.files.collect()["rows"] if state.is_main_process else []


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    from stepmask_lab.pages.rows import work_of

    models = {row["model"] for row in rows}
    title = "against the full run" if len(models) > 1 else f"{models.pop()}, against the full run"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    words = ("model", "method", "setting")
    for column in ("model", "steps", "method", "setting", "MACs", "speed-up", "PSNR", "worst", "SSIM"):
        if column != "model" or models:
            justify = "right" if column not in words[:2] else "left"
            table.add_column(column, justify=justify, no_wrap=column not in words)
    for row in sorted(rows, key=lambda row: (row["model"], -row["steps"], row["method"], -row["macs"])):
        ssim = "-" if row["ssim_mean"] is None else f"{row['ssim_mean']:.3f}"
        psnr = f"{row['psnr_mean']:.1f} ± {row['psnr_sem']:.1f}", f"{row['psnr_min']:.1f}"
        speed = f"{row['speed']['denoiser_speedup']:.2f}x" if row.get("speed") else "-"
        macs = f"{row['macs']:.1%}{work_of(row)}"
        first = [row["model"]] if models else []
        table.add_row(*first, str(row["steps"]), row["method"], row["setting"], macs, speed, *psnr, ssim)
    return table
