"""fit_gains: gains for the forecasts of a mask that is there already, a schedule or an imported one for example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stepmask.inspection.loop import as_pipeline
from stepmask.inspection.registry import denoiser_of
from stepmask.learning._arguments import check_count, check_seed
from stepmask.learning.effort import Effort
from stepmask.learning.end_to_end.config import GlobalConfig
from stepmask.learning.end_to_end.judge import PROBES
from stepmask.learning.end_to_end.select import Asked, Selecting
from stepmask.learning.end_to_end.tables import Table
from stepmask.learning.noise import with_conditions
from stepmask.mask import StepMask, scheduler_identity

NUM_PROBES = 8
"""So many probes' worth of noise is gone through in turns."""


@torch.inference_mode(False)
def fit_gains(
    pipe: Any,
    mask: StepMask,
    iterations: int = 40,
    *,
    channel_gains: bool = True,
    scheduler: Any | None = None,
    seed: int = 0,
    call_kwargs: Mapping[str, Any] | None = None,
    conditions: str | Path | Sequence[str] | Sequence[int] | None = None,
    offload: bool = False,
) -> StepMask:
    """Learn how far each forecast of a mask extrapolates, by gradients of the final images; at the same cost.

    Args:
        pipe: As for `stepmask.learn`.
        mask: Of this model and scheduler. What holds may forecast afterwards, where that costs nothing.
        iterations: Runs forth and back; half as many where the mask has gains already.
        channel_gains: Whether each channel of a site gets one too.
        scheduler: For a bare denoiser.
        seed: Of noise and conditions.
        call_kwargs: As for `stepmask.learn`.
        conditions: As for `stepmask.learn`.
        offload: Keep what the sites compute in host memory between the passes; for accelerators.

    Returns:
        A mask of all sites that says compute where the plan does. ``denoiser_calls`` and ``seconds`` are those of both
        halves.

    Raises:
        MaskMismatchError: The mask belongs to another model, scheduler or number of steps.
        UnsupportedModelError: No gradient reaches the images.
    """
    check_count("iterations", iterations)
    check_seed(seed)
    pipe, effort = as_pipeline(pipe, scheduler), Effort()
    kwargs = with_conditions(pipe, conditions, call_kwargs)
    steps = mask.provenance.get("num_inference_steps") or mask.num_rows
    config = GlobalConfig(gains=iterations, channel_gains=channel_gains, offload=offload)
    with effort.counting(denoiser_of(pipe)):
        chosen = Selecting(pipe, steps, Asked(target_macs=1.0), seed, kwargs, config, None, effort)
        mask.check(graph=chosen.graph, scheduler=pipe.scheduler)
        table = Table.of(mask, chosen.budget)
        table = chosen.judge.with_gains(table, iterations, chosen.search.fits, NUM_PROBES)
    seeds = chosen.noise.seeds(PROBES, NUM_PROBES * config.num_probes)
    before = mask.provenance.get("noise_seeds", [seeds[0], seeds[-1]])
    provenance = {
        **{name: value for name, value in mask.provenance.items() if name != "psnr"},
        "num_inference_steps": steps,
        "gains": {"iterations": iterations, "seed": seed},
        "noise_seeds": [min(before[0], seeds[0]), max(before[1], seeds[-1])],
        "guidance_scale": kwargs.get("guidance_scale"),
        **{name: mask.provenance.get(name, 0) + took for name, took in effort.facts().items()},
    }
    return replace(
        chosen.search.mask(table),
        scheduler=scheduler_identity(pipe.scheduler),
        graph=chosen.graph.fingerprint,
        provenance=provenance,
    )
