"""The recipes of a frontier on many images: distance to the converged run, and Fréchet distance to the data.

`stepmask optimise` reports a few images and no scores of sets; this measures what it found on as many as scores of sets
need. Writes one JSON file, a row after each recipe; the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepmask.cost import BATCH_SIZE
from stepmask.evaluation import Spread, converged, psnr_per_image, sampler_for
from stepmask.evaluation.sampler import sample_masked
from stepmask.files import write_atomically
from stepmask.frontier import Frontier
from stepmask.inspection.overrides import unchecked
from stepmask.plugins import Metrics
from stepmask_lab import reference
from stepmask_lab.benchmark.metrics import metrics_by_name

FIRST_SEED = 200_000
"""Neither learning nor `stepmask evaluate` has seen these."""


def scored(
    pipe: Any,
    frontier: Frontier,
    output: Path,
    num_images: int = 512,
    *,
    metrics: Metrics | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
    batch_size: int = BATCH_SIZE,
    enough: float = 45.0,
    tell: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Measure every recipe of a frontier.

    Args:
        pipe: The pipeline that it was made for.
        frontier: The recipes.
        output: The file of rows; beside it lie the images of the converged run.
        num_images: Images, each with a seed of its own.
        metrics: Scores of them; none by default.
        call_kwargs: Arguments of the pipeline's call.
        batch_size: Images per call.
        enough: dB, how little doubling the steps of the converged run has to change.
        tell: Called with a line for each recipe.

    Returns:
        One row for each point, as the file has them.
    """
    seeds = list(range(FIRST_SEED, FIRST_SEED + num_images))
    wanted = _converged_images(pipe, seeds, output.with_suffix(".npz"), call_kwargs, batch_size, enough)
    rows = json.loads(output.read_text()) if output.exists() else []
    known = {(row["way"], row["budget"]) for row in rows}
    for point in frontier.points:
        if (point.way, point.budget) in known:
            continue
        sampler, _ = sampler_for(pipe, point.recipe, seeds, call_kwargs=call_kwargs)
        with unchecked(pipe):
            images = sample_masked(sampler, seeds, batch_size)
        scores = {} if metrics is None else metrics(images, wanted)
        row = {
            "way": point.way,
            "budget": point.budget,
            "work": point.work,
            "macs_per_image": sampler.work().cost,
            "num_images": num_images,
            "psnr": Spread.of(psnr_per_image(images, wanted)).to_dict(),
            "scores": {name: score.to_dict() for name, score in scores.items()},
        }
        rows.append(row)
        write_atomically(output, json.dumps(rows, indent=1) + "\n")
        found = ", ".join(f"{name} {score.value:.2f}" for name, score in scores.items())
        tell(f"{point.budget:g} evaluations, {point.way}: {row['psnr']['mean']:.2f} dB{', ' + found if found else ''}")
    return rows


def _converged_images(
    pipe: Any, seeds: list[int], path: Path, call_kwargs: Mapping[str, Any] | None, batch_size: int, enough: float
) -> Tensor:
    if path.exists():
        return torch.from_numpy(np.load(path)["images"])
    found = converged(pipe, seeds, call_kwargs=call_kwargs, batch_size=batch_size, enough=enough)
    np.savez(path, images=found.images.numpy(), num_inference_steps=found.num_inference_steps)
    return found.images


def main() -> None:
    """Score a frontier of a reference model, on the features of the classifier that comes with the laboratory."""
    parser = argparse.ArgumentParser(prog="python -m stepmask_lab.benchmark.frontiers", description=__doc__)
    parser.add_argument("model", choices=reference.names(), help="reference model")
    parser.add_argument("frontier", type=Path, help="frontier.json of stepmask optimise")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file for the rows, JSON")
    parser.add_argument("-n", "--num-images", type=int, default=512)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--enough", type=float, default=45.0, help="dB that doubling the steps may change")
    given = parser.parse_args()
    call = {} if given.guidance_scale is None else {"guidance_scale": given.guidance_scale}
    pipe, frontier = reference.load(given.model), Frontier.load(given.frontier)
    scored(
        pipe,
        frontier,
        given.output,
        given.num_images,
        metrics=metrics_by_name("cifar"),
        call_kwargs=call,
        enough=given.enough,
    )


if __name__ == "__main__":
    main()
