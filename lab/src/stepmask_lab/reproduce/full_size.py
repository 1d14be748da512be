"""MACs of the paper's models at full size, from their configurations alone: originals and published schedules.

Nothing is sampled: what masks would cost there needs weights. See `stepmask.presets`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler

from stepmask import presets
from stepmask.cost import CostTable
from stepmask.graph import BlockGraph
from stepmask.inspection.describe import describe
from stepmask.inspection.measure_cost import measure_cost
from stepmask.inspection.registry import architecture_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask.liveness import make_plan
from stepmask.mask import StepMask
from stepmask.schedules import deepcache, fora, import_l2c
from stepmask_lab.reproduce.paper import DEEPCACHE, DIFF_PRUNING, FEWER, FORA, L2C, ORIGINAL, PaperModel, agrees
from stepmask_lab.rivals.diff_pruning.prune import RATIO, prune

TERA = 1e12
ROUTED = "dit-xl-2-256"
"""The preset that published routers are for."""


@dataclass(frozen=True)
class FullSize:
    """MACs of one method on one model at full size, in T per image, guidance not counted.

    Attributes:
        method: As tables call it.
        setting: Of the schedule; what was chosen where the paper does not say.
        steps: T.
        macs: In the paper's convention.
        dead_only: The same where only dead computations are left out, not those of unchanged inputs; what DeepCache
            reports.
        conv_linear: `macs` without the products of attention.
        full: `macs` with them.
        paper: What the paper prints, at its number of steps.
        agrees: Whether `macs` or `dead_only` is within 0.5% of it, or rounds to it; None where it prints nothing.
    """

    method: str
    setting: str
    steps: int
    macs: float
    dead_only: float
    conv_linear: float
    full: float
    paper: float | None
    agrees: bool | None


def full_size(model: PaperModel, router: str | Path | None = None) -> list[dict[str, Any]]:
    """MACs of the original, of fewer steps and of the schedules that the paper compares with.

    Args:
        model: Of the paper.
        router: A router of Learning-to-Cache for DiT-XL/2 at 256 pixels; it brings its own number of steps.

    Raises:
        StepMaskError: The file is no router.
    """
    graph, _ = _measured(model.preset)
    timesteps = range(model.steps, 0, -1)
    found = [_of(model, ORIGINAL, "", fora(graph, timesteps, 1))]
    fewer = model.row(FEWER)
    if fewer is not None:
        found.append(_of(model, FEWER, f"{fewer.steps} steps", fora(graph, range(fewer.steps, 0, -1), 1)))
    if model.deepcache is not None:
        branch, interval = model.deepcache
        mask = deepcache(graph, timesteps, interval, branch=branch)
        found.append(_of(model, DEEPCACHE, f"1:{interval}, branch {branch}", mask))
    if model.row(FORA) is not None:
        found.append(_of(model, FORA, "1:2", fora(graph, timesteps, 2)))
    if model.row(DIFF_PRUNING) is not None:
        found.append(_pruned(model))
    if router is not None and model.preset == ROUTED:
        found.append(_of(model, L2C, f"router {Path(router).name}", _routed(Path(router), model.preset)))
    return [asdict(one) for one in found]


def _pruned(model: PaperModel) -> FullSize:
    """The original with fewer channels, whose shapes need no weights: which channels go does not matter."""
    graph, cost = _measured_pruned(model.preset)
    everything = make_plan(fora(graph, range(model.steps, 0, -1), 1), graph)
    macs, full = cost.conv_linear().total_macs(everything) / TERA, cost.total_macs(everything) / TERA
    printed = model.row(DIFF_PRUNING).macs
    setting, lean = f"{RATIO:.0%} of the channels", model.convention == "conv+lin"
    counted = macs if lean else full
    return FullSize(DIFF_PRUNING, setting, model.steps, counted, counted, macs, full, printed, agrees(counted, printed))


@cache
def _measured_pruned(preset: str) -> tuple[BlockGraph, CostTable]:
    model = presets.get(preset).build().requires_grad_(True)
    prune(model, architecture_of(model).example_inputs(model), RATIO, by_gradients=False)
    return describe(model), measure_cost(model)


def _routed(router: Path, preset: str) -> StepMask:
    """The mask of a router, with as many steps as it has."""
    return import_l2c(router, SamplerLoop(presets.load(preset), DDIMScheduler()))


@cache
def _measured(preset: str) -> tuple[BlockGraph, CostTable]:
    model = presets.load(preset)
    return describe(model), measure_cost(model)


def _of(model: PaperModel, method: str, setting: str, mask: StepMask) -> FullSize:
    graph, cost = _measured(model.preset)
    lean = cost.conv_linear()
    table = lean if model.convention == "conv+lin" else cost
    plan, dead_only = make_plan(mask, graph), make_plan(mask, graph, skip_unchanged=False)
    row = model.row(method)
    printed = None if row is None or mask.num_rows != (row.steps or model.steps) else row.macs
    macs, without = table.total_macs(plan) / TERA, table.total_macs(dead_only) / TERA
    return FullSize(
        method=method,
        setting=setting,
        steps=mask.num_rows,
        macs=macs,
        dead_only=without,
        conv_linear=lean.total_macs(plan) / TERA,
        full=cost.total_macs(plan) / TERA,
        paper=printed,
        agrees=None if printed is None else agrees(macs, printed) or agrees(without, printed),
    )
