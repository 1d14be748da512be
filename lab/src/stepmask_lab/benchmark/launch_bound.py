"""Where launching work takes the time, not doing it: ``python -m stepmask_lab.benchmark.launch_bound [-o FILE]``.

A diffusion transformer of many narrow blocks on one CPU thread stands for a large one on a fast accelerator at batch
1: every norm, modulation and line of Python between two sites costs as much as what the sites do. Masks that let whole
blocks, or all of them together, rest must gain what their MACs promise; those that let branches rest alone cannot.
Every mask is measured in turns with the plain model, in processor time, and stands as a share of its time. What else
runs on the machine only ever makes a step longer, so the lower quartile of the rounds counts, step by step.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel

import stepmask
from stepmask import StepMask, schedules

NUM_BLOCKS, NUM_STEPS, ROUNDS = 28, 20, 15


def narrow_transformer(num_blocks: int = NUM_BLOCKS) -> DiTTransformer2DModel:
    """As many blocks as DiT-XL/2 has, 32 wide, on 4 tokens."""
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=num_blocks,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_elementwise_affine=False,
        norm_type="ada_norm_zero",
    ).eval()


def masks_for(graph: stepmask.BlockGraph, timesteps: list[float]) -> dict[str, StepMask]:
    """All cells computing; and at each level every fifth and every second step, held and forecast."""
    found = {"all cells compute": schedules.fora(graph, timesteps, 1)}
    for level in ("branch", "block", "stack"):
        for interval in (5, 2):
            for forecast in (None, "linear"):
                name = f"{level}, every {interval} steps, {forecast or 'hold'}"
                found[name] = schedules.fora(graph, timesteps, interval, forecast, level)
    return found


def _lower_quartile(rounds: list[list[float]]) -> float:
    """Seconds of a run, of each step the lower quartile over the rounds."""
    return sum(sorted(step)[len(step) // 4] for step in zip(*rounds, strict=True))


def measured(
    num_blocks: int = NUM_BLOCKS, steps: int = NUM_STEPS, rounds: int = ROUNDS, tell: Callable[[str], Any] = print
) -> dict[str, Any]:
    """Time and MACs of every mask as shares of the plain model's, over rounds in turns.

    Args:
        num_blocks: Blocks of the transformer.
        steps: Steps of a run.
        rounds: How often each is measured.
        tell: Called with each line of the result.
    """
    model, scheduler = narrow_transformer(num_blocks), DDIMScheduler()
    scheduler.set_timesteps(steps)
    graph, cost = stepmask.describe(model), stepmask.measure_cost(model)
    masks = masks_for(graph, [float(t) for t in scheduler.timesteps])
    noise, label = torch.randn(1, 4, 4, 4, generator=torch.manual_seed(0)), torch.zeros(1, dtype=torch.long)

    @torch.no_grad()
    def seconds_of_steps() -> list[float]:
        scheduler.set_timesteps(steps)
        sample, seconds = noise, []
        for timestep in scheduler.timesteps:
            start = time.process_time()
            output = model(sample, timestep=timestep.expand(1), class_labels=label).sample[:, :4]
            sample = scheduler.step(output, timestep, sample).prev_sample
            seconds.append(time.process_time() - start)
        return seconds

    seconds_of_steps()
    plain, masked = {name: [] for name in masks}, {name: [] for name in masks}
    for _ in range(rounds):
        for name, mask in masks.items():
            seconds_of_steps()
            plain[name].append(seconds_of_steps())
            with stepmask.apply(model, mask, scheduler=scheduler):
                seconds_of_steps()
                masked[name].append(seconds_of_steps())
    rows = {}
    for name, mask in masks.items():
        macs = cost.fraction(stepmask.make_plan(mask, graph))
        full = _lower_quartile(plain[name])
        rows[name] = {"time": _lower_quartile(masked[name]) / full, "macs": macs, "plain_ms": 1000 * full}
        tell(f"{name:32} {rows[name]['time']:.2f} of the time, {macs:.2f} of the MACs")
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
    shape = {"blocks": num_blocks, "steps": steps, "rounds": rounds, "batch": 1}
    return {**shape, "machine": machine, "masks": rows}


def main() -> None:
    """Measure, print, and write the raw result where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m stepmask_lab.benchmark.launch_bound", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="file for the raw result, JSON")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    found = measured()
    if output is not None:
        output.write_text(json.dumps(found, indent=2) + "\n")
        print(f"wrote {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
