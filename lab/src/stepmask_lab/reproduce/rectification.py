"""Eq. 12 as printed against exact elimination: what each leaves out of a mask, and what it does to the images."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from stepmask.evaluation import Evaluation, evaluate, psnr_per_image
from stepmask.graph import BlockGraph
from stepmask.liveness import Plan, make_plan
from stepmask.mask import StepMask
from stepmask_lab.benchmark.result_files import Key
from stepmask_lab.reproduce.bench import Run
from stepmask_lab.reproduce.table_lines import masking
from stepmask_lab.schedules import random_schedule

NOTHING, EQ_12, EXACT = "as decided", "Eq. 12", "exact"
NUM_IMAGES = 16
"""At most: the difference of two runs from the same noise needs few."""
METHOD = "rectification"


def rectification(run: Run, speed: bool = False) -> list[dict[str, Any]]:
    """Compare on a mask from the paper's learner and on a random one.

    Args:
        run: The model.
        speed: Whether to measure the speed-up of the learned mask's three plans.

    Returns:
        One row per mask: ``mask``, and under ``plans`` by name: macs, conv_linear, computes, psnr (against the full
        run), psnr_to_mask and relative_l2 (against the images of the mask as decided), speedup.
    """
    learned = next(iter(run.rows([masking(run.options)])))
    masks = {"learned": run.mask(learned), "random": random_schedule(run.subject.pipe, run.subject.steps, density=0.5)}
    return [_row(run, name, mask, speed and name == "learned") for name, mask in masks.items()]


def plans_of(mask: StepMask, run: Run) -> dict[str, Plan]:
    """What runs where nothing is left out, where Eq. 12 alone says what is, and where exact elimination does."""
    return {
        NOTHING: make_plan(mask, run.graph, eliminate_dead=False),
        EQ_12: make_plan(rectify_paper(mask, run.graph), run.graph, eliminate_dead=False),
        EXACT: make_plan(mask, run.graph),
    }


def _row(run: Run, name: str, mask: StepMask, speed: bool) -> dict[str, Any]:
    files = run.comparison.files
    key = Key(run.name, run.subject.steps, METHOD, name)
    if files.row(key) is None:
        run.comparison.tell(f"{run.name}, {run.subject.steps} steps: Eq. 12 against exact elimination, {name} mask")
        found = _measure(run, plans_of(mask, run), speed)
        row = {"macs": found[EXACT]["macs"], "num_images": _num_images(run), "plans": found}
        files.save(key, {**row, "circumstances": run.circumstances()})
    row = files.row(key)
    return {"model": run.name, "mask": name, "num_images": row["num_images"], "plans": row["plans"]}


def _num_images(run: Run) -> int:
    return min(NUM_IMAGES, run.options.num_images)


def _measure(run: Run, plans: dict[str, Plan], speed: bool) -> dict[str, dict[str, Any]]:
    lean, full, decided = run.cost.conv_linear(), None, None
    found = {}
    for name, plan in plans.items():
        result = evaluate(
            run.subject.pipe,
            plan,
            seeds=_num_images(run),
            call_kwargs=run.subject.call_kwargs,
            batch_size=run.options.batch_size,
            speed=speed,
            reference=full,
        )
        full, decided = result.full, result.masked if decided is None else decided
        found[name] = {
            "macs": result.macs_fraction,
            "conv_linear": lean.fraction(plan),
            "computes": result.cells["compute"],
            "speedup": None if result.speed is None else result.speed.denoiser.median,
            **_difference(result, decided),
        }
    return found


def _difference(result: Evaluation, decided: Tensor) -> dict[str, float]:
    """Of the images to the full run's, and to those of the mask as decided."""
    change = (result.masked - decided).flatten(1).norm(dim=1) / decided.flatten(1).norm(dim=1)
    return {
        "psnr": result.psnr.mean,
        "psnr_to_mask": psnr_per_image(result.masked, decided).mean().item(),
        "relative_l2": change.mean().item(),
    }


def rectify_paper(mask: StepMask, graph: BlockGraph | None = None) -> StepMask:
    """Eq. 12 of arXiv 2603.19939 as printed: drop a computation whose successor reuses at the same step and which
    itself computes anew at the next step, swept from the last step to the first, last block to first.

    Lossless only where each site is read by the next alone. On transformers, whose branches all reach the output,
    and on U-Nets, whose decoder also reads the encoder, it substitutes stale values and changes the output. Even on a
    chain it leaves work behind that `make_plan` removes.

    Args:
        mask: Columns in execution order.
        graph: If given, samplers, which the paper does not count as blocks, are passed over.
    """
    compute = mask.compute.copy()
    columns = list(range(compute.shape[1]))
    if graph is not None:
        samplers = {site.name for site in graph.sites if site.kind == "sampler"}
        columns = [i for i in columns if mask.sites[i] not in samplers]
    for step in reversed(range(len(compute) - 1)):
        for block, following in reversed(list(pairwise(columns))):
            if not compute[step, following] and compute[step + 1, block]:
                compute[step, block] = False
    return replace(mask, compute=compute, provenance={**mask.provenance, "rectified": "paper, Eq. 12"})
