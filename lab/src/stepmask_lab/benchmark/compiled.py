"""What masks gain on compiled models: ``python -m stepmask_lab.benchmark.compiled [MODEL ...] [-o FILE]``.

Two transformers of medium width, and the one of `launch_bound`, are compiled by inductor block by block, as the
documentation of diffusers says, or with ``--whole`` as a whole. Every mask is measured in turns with the full run of
the same compiled model, in processor time on one thread; beside the time stand how many graphs it needed and how long
they took to make.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, PixArtTransformer2DModel
from torch import nn

import stepmask
from stepmask import BlockGraph, StepMask, schedules
from stepmask.evaluation.result import circumstances
from stepmask.inspection.registry import architecture_of
from stepmask.inspection.sampler_loop import SamplerLoop
from stepmask_lab.benchmark.launch_bound import narrow_transformer

STEPS, ROUNDS, SEED = 10, 5, 0
MEDIUM = {
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "num_layers": 8,
    "in_channels": 4,
    "out_channels": 8,
    "sample_size": 32,
    "patch_size": 2,
}
"""Width 384 on 256 tokens, as DiT-S/2 has them."""


def medium_dit() -> nn.Module:
    """Two branches in each of 8 blocks."""
    torch.manual_seed(SEED)
    options = {"num_embeds_ada_norm": 10, "norm_type": "ada_norm_zero", "norm_elementwise_affine": False}
    return DiTTransformer2DModel(**MEDIUM, **options).eval()


def medium_pixart() -> nn.Module:
    """Three branches in each of 8 blocks, a text of 300 tokens."""
    torch.manual_seed(SEED)
    options = {"cross_attention_dim": 384, "caption_channels": 256, "norm_type": "ada_norm_single"}
    return PixArtTransformer2DModel(**MEDIUM, **options, norm_elementwise_affine=False).eval()


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "dit": medium_dit,
    "pixart": medium_pixart,
    "launch-bound": narrow_transformer,
}


def masks_for(graph: BlockGraph, timesteps: Sequence[float]) -> dict[str, StepMask]:
    """Every second step at every level, about half of the MACs: with forecasts, and of the whole stack held too."""
    asked = (("stack", None), ("stack", "linear"), ("block", "linear"), ("branch", "linear"))
    return {f"{level}, {how or 'hold'}": schedules.fora(graph, timesteps, 2, how, level) for level, how in asked}


class Graphs:
    """Counts the graphs that torch.compile makes."""

    def __init__(self) -> None:
        from torch._dynamo.utils import counters

        self._counters = counters["stats"]
        self._before = self.made

    @property
    def made(self) -> int:
        """All so far."""
        return self._counters["unique_graphs"]

    def new(self) -> int:
        """Those since the last question."""
        before, self._before = self._before, self.made
        return self._before - before


def measured(
    model: nn.Module,
    steps: int = STEPS,
    rounds: int = ROUNDS,
    backend: str = "inductor",
    whole: bool = False,
    tell: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Times of every mask as shares of the compiled full run's, beside those of the run that is not compiled.

    Args:
        model: A denoiser with one list of blocks, ``transformer_blocks``. It stays compiled.
        steps: Steps of a run.
        rounds: How often each is measured.
        backend: What compiles.
        whole: Compile the denoiser as a whole in place of its blocks.
        tell: Called with each line of the result.

    Returns:
        Circumstances, and for every mask its share of the MACs, its speed-up over the compiled full run, what of
        1 / MACs that is, and graphs and seconds that its first run took more than its second.
    """
    pipe = SamplerLoop(model, DDIMScheduler())
    pipe.scheduler.set_timesteps(steps)
    graph, cost = stepmask.describe(pipe), stepmask.measure_cost(pipe)
    masks = masks_for(graph, [float(t) for t in pipe.scheduler.timesteps])
    inputs = architecture_of(model).example_inputs(model)
    condition = {name: value for name, value in inputs.items() if name not in ("hidden_states", "timestep")}

    def seconds() -> float:
        start = time.process_time()
        generator = [torch.Generator().manual_seed(SEED)]
        pipe(num_inference_steps=steps, batch_size=1, generator=generator, **condition)
        return time.process_time() - start

    def first() -> dict[str, float]:
        began, made = time.perf_counter(), Graphs()
        seconds()
        return {"graphs": made.new(), "first_run_s": round(time.perf_counter() - began, 2)}

    seconds()
    eager = [seconds() for _ in range(rounds)]
    for module in [model] if whole else model.transformer_blocks:
        module.compile(fullgraph=True, backend=backend)
    rows: dict[str, dict[str, Any]] = {"full": first()}
    for name, mask in masks.items():
        with stepmask.apply(pipe, mask):
            rows[name] = first()
    full: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in masks}
    again = Graphs()
    for _ in range(rounds):
        for name, mask in masks.items():
            with stepmask.apply(pipe, mask):
                masked = seconds()
            full.append(seconds())
            ratios[name].append(full[-1] / masked)
    rows["full"] |= {"speedup_over_eager": statistics.median(eager) / statistics.median(full)}
    for name, mask in masks.items():
        plan = stepmask.make_plan(mask, graph)
        macs, speedup = cost.fraction(plan), statistics.median(ratios[name])
        rows[name] |= {"macs": macs, "speedup": speedup, "of_ideal": speedup * macs}
        rows[name]["all"] = ratios[name]
        tell(
            f"{name:16} {speedup:.2f}x at {macs:.3f} of the MACs, {speedup * macs:.3f} of 1 / MACs; "
            f"{rows[name]['graphs']} graphs more, first run {rows[name]['first_run_s']:.1f} s"
        )
    known = circumstances(pipe, condition)
    return {
        **known,
        "config": {name: value for name, value in model.config.items() if isinstance(value, int | str)},
        "backend": backend,
        "compiled": "as a whole" if whole else "block by block",
        "steps": steps,
        "rounds": rounds,
        "batch": 1,
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "graphs_after_first_runs": again.new(),
        "rows": rows,
    }


def main() -> None:
    """Measure, print, and write the raw result where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m stepmask_lab.benchmark.compiled", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="some of the models; by default all")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each mask is measured")
    parser.add_argument("--whole", action="store_true", help="compile the denoiser as a whole")
    parser.add_argument("-o", "--output", type=Path, help="file for the raw result, JSON; other models in it stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        print(name)
        with tempfile.TemporaryDirectory() as cache:  # what was compiled before would be no time to compile
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            found = measured(MODELS[name](), options.steps, options.rounds, whole=options.whole)
        if options.output is not None:
            before = json.loads(options.output.read_text()) if options.output.exists() else {}
            key = f"{name}, as a whole" if options.whole else name
            options.output.write_text(json.dumps(before | {key: found}, indent=2) + "\n")
            print(f"wrote {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
