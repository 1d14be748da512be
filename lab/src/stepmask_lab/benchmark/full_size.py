"""How fast models of full size run under masks: ``python -m stepmask_lab.benchmark.full_size -o FOLDER``.

Published architectures with random weights, in bfloat16, at the sizes of published use, on an accelerator where there
is one. Each mask is measured in turns with the plain model that is run the same way: eager, with its blocks compiled,
and with CUDA graphs of the blocks. Only the denoiser is called, T times a run, as a pipeline's loop calls it. A row
says the masked run's share of the plain run's time beside its share of the MACs; what is refused, or does not fit into
memory or into the minutes that are given, is a row that says so. The folder gets ``full_size.json`` and a page.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from torch import nn

import stepmask
from stepmask import StepMask, make_plan, presets
from stepmask.evaluation.result import device_name
from stepmask.inspection.inputs import repeated
from stepmask.inspection.registry import architecture_of
from stepmask_lab.benchmark.large import key_step_mask

MODELS = ("dit-xl-2-256", "dit-xl-2-512", "pixart-sigma-1024", "sdxl", "flux-dev")
BUDGETS, LEVELS, BATCHES = (0.5, 0.3), ("stack", "branch"), (1, 16)
STEPS, ROUNDS, MINUTES = 20, 5, 25.0
SLOW, FEWEST_STEPS = 10.0, 8
"""Where a plain run takes more seconds it gets fewer steps, down to so many, and one mask is measured, twice."""


@dataclass(frozen=True)
class Subject:
    """A denoiser, and what it is called with.

    Attributes:
        name: Of the preset.
        model: With random weights, on its device.
        inputs: Keyword arguments of a call for one image.
        timestep: Which of them says the step.
    """

    name: str
    model: nn.Module
    inputs: Mapping[str, Any]
    timestep: str = "timestep"


@dataclass(frozen=True)
class Way:
    """A way to run the blocks.

    Attributes:
        name: As tables call it.
        compiling: Options of ``torch.compile`` for each block; None leaves them as they are.
    """

    name: str
    compiling: Mapping[str, Any] | None = field(default=None, hash=False)


WAYS = (
    Way("eager"),
    Way("compiled", {"fullgraph": True}),
    Way("CUDA graphs", {"fullgraph": True, "mode": "reduce-overhead"}),
)


def load(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Subject:
    """A published model with random weights, and one call's inputs in the sizes of published use."""
    preset = presets.get(name)
    on_meta = preset.build()
    model = on_meta.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for parameter in [*model.parameters(), *model.buffers()]:
            parameter.normal_(std=0.02) if parameter.is_floating_point() else parameter.zero_()
    inputs = preset.example_inputs(model) or architecture_of(model).example_inputs(model)
    return Subject(name, model.eval().requires_grad_(False), inputs)


class Clock:
    """How many seconds are left."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds; below 0 where time is over."""
        return self._end - time.monotonic()


def runner(subject: Subject, batch: int, steps: int) -> tuple[Any, Callable[[], float]]:
    """A scheduler, and a function that runs all its steps and returns the seconds of a run."""
    scheduler, model = DDIMScheduler(), subject.model
    parameter = next(model.parameters())
    inputs = repeated(subject.inputs, batch, parameter.device)

    @torch.no_grad()
    def run() -> float:
        scheduler.set_timesteps(steps)
        _wait(parameter.device)
        began = time.perf_counter()
        for timestep in scheduler.timesteps:
            model(**{**inputs, subject.timestep: timestep.expand(batch).to(parameter.device)})
        _wait(parameter.device)
        return time.perf_counter() - began

    scheduler.set_timesteps(steps)
    return scheduler, run


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def rows_of(
    subject: Subject,
    clock: Clock,
    *,
    ways: Sequence[Way] = WAYS,
    batches: Sequence[int] = BATCHES,
    budgets: Sequence[float] = BUDGETS,
    levels: Sequence[str] = LEVELS,
    steps: int = STEPS,
    rounds: int = ROUNDS,
) -> Iterator[dict[str, Any]]:
    """Measure one model; a row for each way, batch size and mask."""
    graph, cost = stepmask.describe(subject.model), stepmask.measure_cost(subject.model)
    for way in ways:
        try:
            _compile(subject.model, graph, way)
            for batch in batches:
                plain = _Plain.of(subject, batch, steps, clock)
                for number, (budget, level) in enumerate(product(budgets, levels)):
                    mask = key_step_mask(graph, cost, budget, level, _timesteps(plain.steps))
                    plan = make_plan(mask, graph)
                    row = {
                        "model": subject.name, "way": way.name, "batch": batch, "steps": plain.steps, "budget": budget,
                        "level": level, "macs": cost.fraction(plan), "cache_bytes": cost.peak_cache_bytes(plan),
                    }  # fmt: skip
                    if plain.why or (number and plain.is_slow):
                        yield row | {"skipped": plain.why or f"a plain run takes {plain.seconds:.0f} s"}
                    else:
                        yield row | _measured(plain, mask, 2 if plain.is_slow else rounds, clock)
        finally:
            _uncompile(subject.model, graph)


@dataclass(frozen=True)
class _Plain:
    """The plain model, warmed up, at one batch size.

    Attributes:
        subject: The model.
        batch: Images at once.
        steps: Of a run.
        first: Seconds of the first run, in which what is compiled is compiled.
        seconds: Of a run after it.
        why: It cannot be measured; empty where it can.
    """

    subject: Subject
    batch: int
    steps: int
    first: float = 0.0
    seconds: float = 0.0
    why: str = ""

    @classmethod
    def of(cls, subject: Subject, batch: int, steps: int, clock: Clock) -> _Plain:
        """Run it twice, with so few steps that a run does not take too long."""
        if clock.left < 0:
            return cls(subject, batch, steps, why="the minutes are over")
        try:
            first, one = runner(subject, batch, 1)[1](), runner(subject, batch, 1)[1]()
            steps = max(min(steps, FEWEST_STEPS), min(steps, int(SLOW / max(one, 1e-9))))
            seconds = runner(subject, batch, steps)[1]()
        except Exception as error:
            return cls(subject, batch, steps, why=_why(error))
        return cls(subject, batch, steps, first, seconds)

    @property
    def is_slow(self) -> bool:
        return self.seconds > SLOW


def _why(error: Exception) -> str:
    """An error of any library, which is a result here, in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _timesteps(steps: int) -> list[float]:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(steps)
    return [float(t) for t in scheduler.timesteps]


def _blocks(model: nn.Module, graph: stepmask.BlockGraph) -> list[nn.Module]:
    """The blocks by which diffusers would compile the model; the largest sites that are modules where it says none."""
    repeated_blocks = set(getattr(model, "_repeated_blocks", None) or ())
    if repeated_blocks:
        return [module for module in model.modules() if type(module).__name__ in repeated_blocks]
    return [model.get_submodule(graph.names[site]) for site in graph.level("block")]


def _compile(model: nn.Module, graph: stepmask.BlockGraph, way: Way) -> None:
    if way.compiling is not None:
        for block in _blocks(model, graph):
            block.compile(**way.compiling)


def _uncompile(model: nn.Module, graph: stepmask.BlockGraph) -> None:
    for block in _blocks(model, graph):
        block._compiled_call_impl = None
    torch._dynamo.reset()


def _measured(plain: _Plain, mask: StepMask, rounds: int, clock: Clock) -> dict[str, Any]:
    """The masked run's share of the plain run's time, in turns; or why there is none."""
    scheduler, run = runner(plain.subject, plain.batch, plain.steps)
    pairs: list[tuple[float, float]] = []
    try:
        graphs = _num_graphs()
        with stepmask.apply(plain.subject.model, mask, scheduler=scheduler):
            first_masked = run()
        graphs = _num_graphs() - graphs
        while len(pairs) < rounds and clock.left > 2 * plain.seconds:
            seconds = run()
            with stepmask.apply(plain.subject.model, mask, scheduler=scheduler):
                run()
                pairs.append((seconds, run()))
    except Exception as error:
        return {"refused": _why(error)}
    if not pairs:
        return {"skipped": "the minutes are over"}
    shares = [masked / seconds for seconds, masked in pairs]
    return {
        "share": statistics.median(shares),
        "shares": shares,
        "plain_ms_a_step": 1e3 * statistics.median(seconds for seconds, _ in pairs) / plain.steps,
        "first_s": plain.first,
        "first_masked_s": first_masked,
        "graphs": graphs,
    }


def _num_graphs() -> int:
    return torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)


def measured(
    subjects: Sequence[Callable[[], Subject]],
    minutes: float = MINUTES,
    tell: Callable[[str], Any] = print,
    **options: Any,
) -> dict[str, Any]:
    """All rows of all models, each of which is loaded when its turn comes and dropped after it.

    Args:
        subjects: What loads them.
        minutes: After so many, what is left is skipped.
        tell: Called with each row in words.
        options: Of `rows_of`.
    """
    clock, rows, device = Clock(minutes), [], "cpu"
    for loaded in subjects:
        subject = loaded()
        parameter = next(subject.model.parameters())
        device = device_name(parameter.device)
        for row in rows_of(subject, clock, **options):
            rows.append(row | {"dtype": str(parameter.dtype).removeprefix("torch.")})
            tell(in_words(rows[-1]))
        del subject, parameter
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "stepmask": stepmask.__version__}
    return {"device": device, "versions": versions, "minutes": minutes, "weights": "random", "rows": rows}


def in_words(row: Mapping[str, Any]) -> str:
    """One line of a row."""
    what = f"{row['model']:18} {row['way']:12} batch {row['batch']:2}, {row['level']:6} {row['budget']:g}"
    if "share" not in row:
        return f"{what}: {row.get('refused') or row['skipped']}"
    return f"{what}: {row['share']:.3f} of the time, {row['macs']:.3f} of the MACs, {row['graphs']} graphs"


def page(found: Mapping[str, Any]) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "# Models of full size",
        "",
        f"`make gpu` writes this page. Measured on {found['device']}, with random weights. *Time* is the masked run's "
        "share of the time of the plain model that is run the same way, the median of pairs in turns.",
        "",
        "| model | way | batch | level | MACs | time | MACs / time | plain ms a step | graphs more |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        head = f"| {row['model']} | {row['way']} | {row['batch']} | {row['level']} | {row['macs']:.3f} |"
        if "share" in row:
            ratio = row["macs"] / row["share"]
            head += f" {row['share']:.3f} | {ratio:.2f} | {row['plain_ms_a_step']:.1f} | {row['graphs']} |"
        else:
            head += f" {row.get('refused') or row['skipped']} | – | – | – |"
        lines.append(head)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the raw results and the page."""
    parser = argparse.ArgumentParser(prog="python -m stepmask_lab.benchmark.full_size", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help=f"presets; by default {', '.join(MODELS)}")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu"), help="folder of the results")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long to go on (default %(default)g)")
    asked = parser.parse_args()
    if not torch.accelerator.is_available():
        print("there is no accelerator here: models of full size would take hours; nothing was measured")
        sys.exit(1)
    device = torch.accelerator.current_accelerator()
    found = measured([partial(load, name, device) for name in asked.models], asked.minutes)
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "full_size.json").write_text(json.dumps(found, indent=2) + "\n")
    (asked.output / "full_size.md").write_text(page(found))
    print(f"wrote {asked.output / 'full_size.json'} and {asked.output / 'full_size.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
