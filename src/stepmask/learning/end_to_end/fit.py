"""fit_gains: gains for the forecasts of a mask that is there already, a schedule or an imported one for example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stepmask.inspection.overrides import uncompiled
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask.learning.budget import Budget
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.effort import Effort
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.end_to_end.judge import PROBES, Judge
from stepmask.learning.end_to_end.memory import fitted
from stepmask.learning.end_to_end.tables import Table
from stepmask.learning.processes import current, together
from stepmask.learning.refusals import check_gradients
from stepmask.mask import StepMask
from stepmask.runtime.task import Task, check_whole

NUM_PROBES = 8
"""So many probes' worth of noise is gone through in turns."""


@torch.inference_mode(False)
@together()
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
    offload: bool | None = None,
) -> StepMask:
    """Learn how far each forecast of a mask extrapolates, by gradients of the final images; at the same cost.

    Several processes share the images out, as in `learn`.

    Args:
        pipe: A diffusers pipeline; or a denoiser with its `scheduler`.
        mask: A mask of this model and scheduler. What holds may forecast afterwards, where that costs nothing.
        iterations: Runs forth and back; half as many where the mask has gains already.
        channel_gains: Whether each channel of a site gets a gain too.
        scheduler: The scheduler of a bare denoiser.
        seed: The seed of noise and conditions.
        call_kwargs: Arguments for the pipeline's call.
        conditions: Prompts or class numbers to learn on, or a text file with one per line.
        offload: Whether what the sites compute waits in host memory between the passes; for accelerators. None is
            where the device would not hold it.

    Returns:
        A mask of all sites that says compute where the plan does. ``denoiser_calls`` and ``seconds`` are those of both
        halves.

    Raises:
        MaskMismatchError: The mask belongs to another model, scheduler or number of steps.
        UnsupportedModelError: No gradient reaches the images.
    """
    check_whole("iterations", iterations, 1)
    steps = mask.num_inference_steps
    task = Task(pipe, steps, scheduler=scheduler, seed=seed, call_kwargs=call_kwargs, conditions=conditions)
    effort = Effort()
    with uncompiled(task.pipe), effort.counting(*task.denoisers):
        check_gradients(task.pipe)
        given = EndToEnd(gains=iterations, channel_gains=channel_gains, offload=offload)
        config, _ = fitted(given, task, current())
        judge = Judge(task, Budget(task.graph, task.costs), config, Checkpoint(None, {}, effort), current())
        _ = task.timesteps  # sets the scheduler to a run, which the mask is checked against
        mask.check(graph=task.graph, scheduler=task.pipe.scheduler)
        table = judge.with_gains(Table.of(mask, task.graph), iterations, NUM_PROBES)
    seeds = task.noise.seeds(PROBES, NUM_PROBES * config.num_probes)
    before = mask.provenance.get("noise_seeds", [seeds[0], seeds[-1]])
    took = {name: mask.provenance.get(name, 0) + added for name, added in effort.facts().items()}
    provenance = {
        **{name: value for name, value in mask.provenance.items() if name != "psnr"},
        "num_inference_steps": steps,
        "gains": {"iterations": iterations, "seed": seed},
        "noise_seeds": [min(before[0], seeds[0]), max(before[1], seeds[-1])],
        "guidance_scale": PipelineCall(task.pipe).guidance(task.call_kwargs),
        **took,
    }
    bare = table.mask(task)
    made = replace(bare, scheduler=task.scheduler, graph=task.graph.fingerprint, provenance=provenance)
    return current().gather(made)[0]
