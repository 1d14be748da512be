"""stepmask reproduce: the tables and figures of the paper, its number beside ours."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepmask.cli.common.app import app, stderr, stdout
from stepmask.cli.common.arguments import BatchSize, Device, Folder, Precision, Scheduler
from stepmask.cli.common.call_arguments import Guidance
from stepmask.cli.common.models import load
from stepmask.cli.common.output import write_json
from stepmask.files import ready_folder

if TYPE_CHECKING:
    from stepmask_lab.reproduce import Bench


class What(str, Enum):
    """What the paper has."""

    table1 = "table1"
    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    table5 = "table5"
    figures = "figures"


COMPARISONS = (What.table1, What.table2, What.table3)


@app.command(rich_help_panel="Laboratory")
def reproduce(
    what: Annotated[
        list[What],
        typer.Argument(
            metavar="WHAT...",
            help="[b]table1[/b] (DDPM), [b]table2[/b] (LDM and DiT) and [b]table3[/b] (PixArt) show methods side by "
            "side. In [b]table4[/b] and [b]table5[/b] parts of the paper's learner are changed or left out; table5 "
            "also compares Eq. 12 with exact elimination. [b]figures[/b] are the heatmap (Fig. 6), the scores (Fig. 7) "
            "and the similarity of steps.",
        ),
    ],
    output: Folder = Path("reproduce"),
    steps: Annotated[
        int, typer.Option(min=2, help="Sampling steps. The paper has 100 (DDPM, DiT 256), 250 (LDM), 50 (PixArt).")
    ] = 20,
    paper_steps: Annotated[
        bool,
        typer.Option(
            "--paper-steps", help="Sample with as many steps as the paper, which takes 3 to 12 times as long."
        ),
    ] = False,
    macs_only: Annotated[
        bool,
        typer.Option(
            "--macs-only",
            help="Show only the paper's numbers and the MACs at full size. Nothing is sampled; it takes seconds.",
        ),
    ] = False,
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Number of images per line.")] = 64,
    trajectories: Annotated[
        int, typer.Option(min=1, help="Runs that the paper's learner learns from. stepmask learn takes 32 by default.")
    ] = 8,
    rounds: Annotated[int, typer.Option(min=0, help="Refining rounds of our own learner.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of learning.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Measure a model of the paper at full size in place of the small reference models: its id on the hub "
            "(google/ddpm-cifar10-32, facebook/DiT-XL-2-256, ...), or a folder that save_pretrained wrote.",
        ),
    ] = None,
    router: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Router of Learning-to-Cache for DiT-XL/2 at 256 pixels, whose MACs are counted for table2.",
        ),
    ] = None,
    speed: Annotated[bool, typer.Option(help="Measure speed-ups, by full and masked runs in turns.")] = True,
    scores: Annotated[bool, typer.Option(help="Compute Fréchet distances on a small CIFAR-10 classifier.")] = True,
    batch_size: BatchSize = 16,
    guidance_scale: Guidance = None,
    device: Device = None,
    dtype: Precision = None,
) -> None:
    """Measure the tables of arXiv 2603.19939 again, and show its numbers beside ours.

    Masks are made for the small reference models of the laboratory, at the share of the MACs that the paper keeps. MACs
    are also counted on the published architectures at full size and at the paper's number of steps, where they can be
    compared. FIDs cannot be compared, and the page says so.

    At 20 steps and 64 images a table takes 10 to 60 minutes on a laptop. Every line is a file in the folder and is not
    measured again: a stopped run continues where it was, and tables share their masks. Begin with

        stepmask reproduce table1 table2 table3 --macs-only

        stepmask reproduce table4 -o reproduce
    """
    wanted = list(dict.fromkeys(what))
    for part in ("images", "results"):
        ready_folder(output / part)
    bench = None
    if not macs_only:
        options = {
            "steps": None if paper_steps else steps, "num_images": num_images, "trajectories": trajectories,
            "rounds": rounds, "seed": seed, "guidance_scale": guidance_scale, "speed": speed, "scores": scores,
            "batch_size": batch_size,
        }  # fmt: skip
        bench = _bench(output, wanted, options, model, device, dtype)
    for one in wanted:
        if one == What.figures:
            result = _figures(bench, output) if bench is not None else None
        else:
            result = _table(one, bench, router)
        if result is not None:
            write_json(output / "results" / f"reproduce-{one.value}.json", result)
    stdout().print(_page(output), markup=False, soft_wrap=True)
    stderr().print(f"the page is {output / 'reproduce.md'}", soft_wrap=True)


def _bench(
    output: Path, wanted: list[What], options: dict[str, Any], model: str | None, device: str | None, dtype: Any
) -> Bench:
    from stepmask_lab.reproduce import Bench, Options, OwnModel

    own = None
    if model is not None:
        sampler = Scheduler.dpm if wanted == [What.table3] else Scheduler.ddim
        own = OwnModel(model, load(model, scheduler=sampler, device=device, dtype=dtype))
    bench = Bench(output, Options(**options), own, stderr().print)
    bench.check_own([one.value for one in wanted if one in COMPARISONS])
    return bench


def _table(one: What, bench: Bench | None, router: Path | None) -> dict[str, Any]:
    from stepmask_lab.reproduce import ablation_table, comparison_table

    return comparison_table(one.value, bench, router) if one in COMPARISONS else ablation_table(one.value, bench)


def _figures(bench: Bench, output: Path) -> dict[str, Any]:
    """Draw them; their numbers and what they show."""
    from stepmask.pictures import grid, heatmap, save_png, score_histogram
    from stepmask_lab.pages.step_similarity import output_changes, site_changes
    from stepmask_lab.reproduce import ablated, figure_data, options_of

    run = ablated(bench)
    data = figure_data(run)
    blocks = list(data.graph.blocks)
    names = [data.graph.names[site] for site in blocks]
    pictures = {
        "heatmap": ("Figure 6: computes of the mask, counted over 5 steps", heatmap(data.mask)),
        "scores": ("Figure 7: histogram of the learned scores", score_histogram(data.mask)),
        "plan": ("What runs of that mask after exact elimination", grid(data.plan, data.macs)),
        "output_changes": (
            "Change of the output (Eq. 9) and its weight (Eq. 10)",
            output_changes(data.delta, data.weights),
        ),
        "site_changes": ("Change of each site's value", site_changes(names, data.changes[:, blocks])),
    }
    found = []
    for name, (words, picture) in pictures.items():
        path = save_png(picture, output / "images" / f"reproduce_{name}.png")
        found.append((words, path.name))
    return {
        "options": options_of(bench), "model": run.name, "steps": run.subject.steps, **data.to_dict(), "figures": found,
    }  # fmt: skip


def _page(output: Path) -> str:
    """Write the page of all results in the folder, with the command that makes it."""
    from stepmask.files import write_atomically
    from stepmask_lab.reproduce import page

    paths = {one.value: output / "results" / f"reproduce-{one.value}.json" for one in What}
    results = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
    text = page(results, " and ".join(_commands(results)))
    write_atomically(output / "reproduce.md", text)
    return text


def _commands(results: dict[str, dict[str, Any]]) -> list[str]:
    """What makes these results, as text in Markdown: those that were sampled, and those that were not."""
    sampled = {name: one["options"] for name, one in results.items() if one.get("options")}
    counted = [name for name in results if name not in sampled]
    found = [f"`stepmask reproduce {' '.join(counted)} --macs-only{_router(results, counted)}`"] if counted else []
    if sampled:
        options = next(iter(sampled.values()))
        steps = "--paper-steps" if options["steps"] is None else f"--steps {options['steps']}"
        counts = f"--num-images {options['num_images']} --trajectories {options['trajectories']}"
        switches = [f"--no-{name}" for name in ("speed", "scores") if not options[name]]
        command = " ".join(["stepmask reproduce", *sampled, steps, counts, *switches])
        found.append(f"`{command}{_router(results, list(sampled))}`")
    return found


def _router(results: dict[str, dict[str, Any]], names: list[str]) -> str:
    """The option with which a router of Learning-to-Cache came into one of these tables; empty where none did."""
    models = [model for name in names for model in results[name].get("models", [])]
    settings = [row["setting"] for model in models for row in model["full_size"]]
    return "".join(f" --router {one.removeprefix('router ')}" for one in settings if one.startswith("router "))
