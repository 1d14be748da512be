"""stepmask demo: learn, sample, compare and draw, on a model that comes with the laboratory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepmask.cli.common.app import app, stdout
from stepmask.cli.common.arguments import WHAT_MODELS, Folder, shares
from stepmask.cli.common.models import load
from stepmask.cli.common.output import runs_bar, write_json
from stepmask.cli.sample import write_images
from stepmask.cli.show import draw
from stepmask.files import ready_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table
    from torch import Tensor

    from stepmask import Evaluation, StepMask

MODEL = "reference:pixart-emoji"
PROMPTS = (
    "a red apple, flat style",
    "a hamburger, glossy style",
    "a fox, noto style",
    "an octopus, glossy style",
    "a christmas tree, flat style",
    "a rocket, noto style",
    "a wrapped gift, glossy style",
    "a fire engine, flat style",
)
"""What the model of the laboratory draws; other models get the prompts or classes that learning gives them."""

CONTRAST = 6
"""Differences are drawn so many times as large as they are."""


@dataclass(frozen=True)
class Shown:
    """One row of the picture."""

    label: str
    name: str
    """Of its files."""
    mask: StepMask | None
    result: Evaluation

    @property
    def macs(self) -> float:
        """Share of the full run's MACs."""
        return 1.0 if self.mask is None else self.result.macs_fraction

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) in [0, 1]."""
        return self.result.full if self.mask is None else self.result.masked

    def rows(self) -> list[tuple[str, str, Image]]:
        """The images, and where they differ from the full run's, as `same_seeds` takes them."""
        from stepmask_lab.benchmark.image_strips import strip

        if self.mask is None:
            return [(self.label, f"{self.result.rows} steps", strip(self.images))]
        note = f"{self.macs:.0%} of the MACs, {self.result.psnr.mean:.1f} dB"
        apart = strip(1 - CONTRAST * (self.images - self.result.full).abs())
        return [(self.label, note, strip(self.images)), ("", f"its difference, {CONTRAST} times", apart)]


@app.command(rich_help_panel="Laboratory")
def demo(
    output: Folder = Path("demo"),
    model: Annotated[str, typer.Option(help=f"{WHAT_MODELS}.")] = MODEL,
    steps: Annotated[int, typer.Option(min=2, help="Sampling steps.")] = 20,
    targets: Annotated[str, typer.Option(metavar="SHARES", help="Shares of the full run's MACs to keep.")] = "0.5,0.25",
    rounds: Annotated[
        int, typer.Option(min=0, help="Refining rounds of learning. More of them find better masks.")
    ] = 1,
    gains: Annotated[int, typer.Option(min=0, help="Iterations that learn how far the masks forecast.")] = 20,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What a picture shall show; give it several times. By default eight of our own."),
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Number of images to compare.")] = len(PROMPTS),
) -> None:
    """Learn masks for a small trained model, sample with them, and compare. This takes a few minutes on two cores.

    At each budget FORA, a published rule, stands beside the learned mask: every second or fourth step computes.
    """
    import stepmask

    began, out, budgets = time.monotonic(), stdout(), shares(targets)
    ready_folder(output)
    pipe, prompts = load(model, device="cpu"), prompt or (PROMPTS if model == MODEL else None)
    out.print(f"1. selecting what each block does at each of {steps} steps, with {targets} of the MACs:")
    out.print("   compute, hold its last value, or forecast from the last values, and how far")
    family = stepmask.learn_family(pipe, steps, budgets, rounds=rounds, gains=gains, num_held_back=4)
    family.save(output / "family.json")
    out.print("2. sampling with and without the masks, from noise that learning has not seen")
    shown: list[Shown] = []
    for target in budgets:
        interval = round(1 / target)
        masks = (
            (f"stepmask, {interval}x", f"stepmask-{target:g}", family.at(target)),
            (f"FORA, {interval}x", f"fora-{target:g}", stepmask.schedules.fora(pipe, steps, interval)),
        )
        for label, name, mask in masks:
            with runs_bar(label) as tell:
                result = stepmask.evaluate(
                    pipe, mask, seeds=num_images, batch_size=max(1, num_images // 2), conditions=prompts, progress=tell,
                    reference=shown[0].result.full if shown else None,
                )  # fmt: skip
            if not shown:
                shown.append(Shown("full run", "full", None, result))
            shown.append(Shown(label, name, mask, result))
    out.print(_table(shown))
    out.print(f"in {(time.monotonic() - began) / 60:.1f} minutes; look at")
    for path in _written(pipe, shown, prompts or (), output):
        out.print(f"  {path}")


def _table(shown: Sequence[Shown]) -> Table:
    """What each run costs, and how far its images are from the full run's."""
    from rich.table import Table

    table = Table("run", "MACs", "PSNR", "worst image", "speed-up")
    for one in shown:
        result, speed = one.result, one.result.speed
        numbers = ("100%", "", "", "") if one.mask is None else (
            f"{one.macs:.1%}", f"{result.psnr.mean:.1f} dB", f"{result.psnr.min:.1f} dB",
            "" if speed is None else f"{speed.denoiser.median:.2f}x",
        )  # fmt: skip
        table.add_row(one.label, *numbers)
    return table


def _written(pipe: Any, shown: Sequence[Shown], prompts: Sequence[str], output: Path) -> list[Path]:
    """Write everything, and say where."""
    import stepmask
    from stepmask.pictures import same_seeds, save_png

    rows = [row for one in shown for row in one.rows()]
    paths = [save_png(same_seeds(rows, prompts), output / "comparison.png")]
    graph = stepmask.describe(pipe)
    for one in shown:
        write_images(one.images, list(one.result.seeds), output / one.name)
        if one.mask is not None and one.name.startswith("stepmask"):
            ready_folder(output / one.name)
            paths += draw(one.mask, stepmask.make_plan(one.mask, graph), one.macs, output / one.name)
    evaluations = {one.name: one.result.to_dict() for one in shown if one.mask is not None}
    write_json(output / "evaluation.json", evaluations)
    return [*paths, output / "family.json", output / "evaluation.json"]
