"""Judges a model of emoji: ``python -m stepmask_lab.reference.judge_emoji PIPELINE --icons FOLDER --output FOLDER``.

Of 100 names, each is drawn once, in one of the styles that training saw it in. A picture is right if, of all real ones,
the nearest shows the same emoji, in whatever style. The held-out pairs are drawn too and counted apart. OUTPUT gets
``judge.json``, and two sheets with each drawn picture above the nearest real one; what is wrong is framed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional

from stepmask.pictures.image_sheets import tiles
from stepmask_lab import reference
from stepmask_lab.reference import emoji

NUM_NAMES = 100
BATCH_SIZE = 20
SHEET_COLUMNS = 20
FRAME_PIXELS, FRAME_COLOUR = 3, (1.0, 0.0, 0.0)


class Verdict(NamedTuple):
    """What a model drew of some pairs."""

    labels: np.ndarray
    """Of what was asked for, places in `emoji.PAIRS`."""
    images: Tensor
    """(N, 3, 64, 64) in [0, 1], what was drawn."""
    nearest: np.ndarray
    """Labels of the nearest real pictures."""

    def right(self) -> np.ndarray:
        """Which show the emoji that was asked for, in whatever style."""
        return self.nearest // len(emoji.STYLES) == self.labels // len(emoji.STYLES)

    def in_style(self) -> np.ndarray:
        """Which are nearest to the very picture, by emoji and style, that was asked for."""
        return self.nearest == self.labels


def nearest(images: Tensor, real: Tensor) -> np.ndarray:
    """Place of the nearest real picture: least squares of all pixels, at half the size.

    Args:
        images: (N, 3, H, W).
        real: (M, 3, H, W), in the same range.

    Returns:
        Indices (N,) into `real`.
    """
    flat = [functional.avg_pool2d(each, 2).flatten(1) for each in (images, real)]
    return torch.cdist(*flat).argmin(1).numpy()


def asked_labels(count: int = NUM_NAMES) -> np.ndarray:
    """Pairs to judge by: names evenly from the whole list, styles in turn, none of them held out."""
    names = np.linspace(0, len(emoji.EMOJI), count, endpoint=False).astype(int)
    labels = names * len(emoji.STYLES) + np.arange(count) % len(emoji.STYLES)
    other = names * len(emoji.STYLES) + (np.arange(count) + 1) % len(emoji.STYLES)
    return np.where(emoji.held_out()[labels], other, labels)


def judge(pipe: Any, labels: np.ndarray, real: Tensor, **sampling: Any) -> Verdict:
    """Draw each of the pairs once, from the noise whose seed is its label.

    Args:
        pipe: Draws what a prompt says.
        labels: Places in `emoji.PAIRS`.
        real: All real pictures (N, 3, 64, 64) in [0, 1].
        sampling: Further arguments of the pipeline's call.
    """
    made = []
    for some in np.split(labels, range(BATCH_SIZE, len(labels), BATCH_SIZE)):
        prompts = [emoji.CAPTIONS[label][0] for label in some]
        generators = [torch.Generator().manual_seed(int(label)) for label in some]
        made.append(pipe(prompts, generator=generators, output_type="pt", **sampling).images.float().cpu())
    images = torch.cat(made)
    return Verdict(labels, images, nearest(images, real))


def sheet(verdict: Verdict, real: Tensor) -> Tensor:
    """Rows of drawn pictures, each above a row of the nearest real ones; those of another emoji are framed."""
    drawn, beside = verdict.images.clone(), real[verdict.nearest].clone()
    colour = torch.tensor(FRAME_COLOUR)[:, None, None]
    for number in np.flatnonzero(~verdict.right()):
        inner = beside[number, :, FRAME_PIXELS:-FRAME_PIXELS, FRAME_PIXELS:-FRAME_PIXELS].clone()
        beside[number] = colour
        beside[number, :, FRAME_PIXELS:-FRAME_PIXELS, FRAME_PIXELS:-FRAME_PIXELS] = inner
    rows = zip(drawn.split(SHEET_COLUMNS), beside.split(SHEET_COLUMNS), strict=True)
    return torch.cat([padded(part) for pair in rows for part in pair])


def padded(row: Tensor) -> Tensor:
    """A row of pictures, filled up with white ones."""
    return torch.cat([row, torch.ones(SHEET_COLUMNS - len(row), *row.shape[1:])])


def summary(verdict: Verdict) -> dict[str, Any]:
    """Counts, and what the wrong ones look like instead."""
    wrong = ~verdict.right()
    asked, seen = (
        [emoji.CAPTIONS[label][0] for label in labels[wrong]] for labels in (verdict.labels, verdict.nearest)
    )
    return {
        "asked": len(wrong),
        "right": int((~wrong).sum()),
        "in_style": int(verdict.in_style().sum()),
        "wrong": dict(zip(asked, seen, strict=True)),
    }


def main(
    pipeline: Annotated[Path, typer.Argument(help="folder of a pipeline, as train_emoji writes it")],
    icons: Annotated[Path, typer.Option(help="folder that npm installed the packages of icons in")],
    output: Annotated[Path, typer.Option(help="folder for judge.json and the sheets")],
    cache: Annotated[Path | None, typer.Option(help="folder of the rendered pictures; by default, in OUTPUT")] = None,
    steps: Annotated[int, typer.Option()] = 20,
    guidance_scale: Annotated[float, typer.Option()] = 3.0,
) -> None:
    """Count the names, of 100, that a model draws as they are; look at the sheets as well."""
    output.mkdir(parents=True, exist_ok=True)
    real = torch.from_numpy(emoji.load_emoji(icons, cache or output / "cache")).float() / 255
    pipe = reference.load_from(pipeline, f"model in {pipeline}")
    pipe.set_progress_bar_config(disable=True)
    record = {"steps": steps, "guidance_scale": guidance_scale}
    for kind, labels in (("seen", asked_labels()), ("held_out", np.flatnonzero(emoji.held_out()))):
        verdict = judge(pipe, labels, real, num_inference_steps=steps, guidance_scale=guidance_scale)
        tiles(sheet(verdict, real), SHEET_COLUMNS).save(output / f"{kind}.png")
        record[kind] = summary(verdict)
        print("{0}: {right} of {asked} right, {in_style} in the style asked for".format(kind, **record[kind]))
    (output / "judge.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
