"""Whether what rests keeps its value or its residual: ``python -m stepmask_lab.benchmark.value_or_residual [-o FILE]``.

A mask keeps values: what the last of some blocks returned is held or forecast. The alternative keeps what the blocks
have added to what went into the first of them, holds or forecasts that, and adds it to what goes in at this step. Both
run under the same key steps of the reference models: held, by a line, and by a line with one learned factor for each
step, learned without gradients by the product's own step. Where values are kept, the product runs as it is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stepmask.evaluation.conditions import Conditions
from stepmask.evaluation.fidelity import Spread, psnr_per_image
from stepmask.evaluation.result import circumstances
from stepmask.evaluation.sampler import Sampler
from stepmask.graph import OUT, Level
from stepmask.learning.end_to_end.newton import newton_step
from stepmask.learning.end_to_end.tables import Table
from stepmask.learning.interception import frozen
from stepmask.liveness import Plan, make_plan
from stepmask.mask import StepMask
from stepmask.runtime.cache import Cache
from stepmask.runtime.policies import RunPlan
from stepmask.runtime.task import Task
from stepmask.schedules import key_steps
from stepmask.values import Value
from stepmask_lab import reference
from stepmask_lab.benchmark.methods import guided

STEPS, KEY_STEPS, NUM_IMAGES, LEARNED_ON = 20, (10, 6), 24, 4
FIRST_SEED = 10_000
FORECASTS = ("hold", "line", "line, learned")


class RunResiduals(RunPlan):
    """Executes a `ResidualPlan`."""

    def __call__(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """Run the plan, on what the site adds to what has entered."""
        if site != self.plan.site:
            return super().__call__(step, site, compute, cache)
        [entered] = self.plan.entered
        return super().__call__(step, site, lambda: compute() - entered, cache) + entered


@dataclass(frozen=True, eq=False, repr=False)
class ResidualPlan(Plan):
    """A plan that keeps the residual of one site.

    Attributes:
        site: Its index.
        entered: What the residual is added to, at the step that runs.
    """

    policy: ClassVar[type[RunPlan]] = RunResiduals
    site: int = 0
    entered: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Resting:
    """What rests between key steps, and what is kept of it.

    Attributes:
        rests: In words.
        keeps: ``"value"`` or ``"residual"``.
        task: The model.
        level: The level of the sites.
        sites: Those that rest.
        kept: The last of them, whose value or residual is kept: what the others make, nobody else reads.
        begins: The module at whose input the residual begins.
    """

    rests: str
    keeps: str
    task: Task
    level: Level
    sites: tuple[str, ...]
    kept: str
    begins: str

    def mask(self, num_key_steps: int, forecast: str | None) -> StepMask:
        """All compute at key steps; between them these sites are held, or forecast by a line."""
        mask = key_steps(self.task.graph, self.task.timesteps, num_key_steps, forecast=forecast, level=self.level)
        rest = np.isin(mask.sites, self.sites)
        return replace(mask, compute=mask.compute | ~rest, forecast=mask.forecast & rest)

    @contextmanager
    def running(self, plan: Plan) -> Iterator[Plan]:
        """The plan that keeps what is to be kept; for residuals what enters the blocks is noted meanwhile."""
        if self.keeps == "value":
            yield plan
            return
        given = {field.name: getattr(plan, field.name) for field in fields(Plan)}
        residual = ResidualPlan(**given, site=self.task.graph.names.index(self.kept))

        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            residual.entered[:] = [args[0] if args else kwargs["hidden_states"]]

        begins = self.task.denoiser.get_submodule(self.begins)
        hook = begins.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield residual
        finally:
            hook.remove()


def restings(task: Task) -> list[Resting]:
    """All blocks together; and the first half of a transformer's, after which the others compute.

    Blocks that rest next to each other and each keep a residual of their own come to the same as these together: what
    they add is summed up either way.
    """
    graph = task.graph
    names, blocks, stack = graph.names, graph.level("block"), graph.level("stack")
    [last] = [names[site] for site in stack if OUT in graph.readers(site)]
    found: list[tuple[str, Level, tuple[str, ...], str]] = [
        ("all blocks", "stack", tuple(names[site] for site in stack), last)
    ]
    if all(site.depth is None for site in graph.sites):
        half = tuple(names[site] for site in blocks[: len(blocks) // 2])
        found.append(("first half", "block", half, half[-1]))
    return [
        Resting(rests, keeps, task, level, sites, kept, names[blocks[0]])
        for rests, level, sites, kept in found
        for keeps in ("value", "residual")
    ]


class Measurement:
    """What rests in one pipeline against its full run, from the same noise.

    Args:
        pipe: A pipeline whose last block returns one tensor, of the shape that enters the first.
        steps: Steps of a run.
        num_images: Images that are compared, on seeds from `FIRST_SEED`.
    """

    def __init__(self, pipe: Any, steps: int = STEPS, num_images: int = NUM_IMAGES) -> None:
        self.task = Task(pipe, steps, call_kwargs=guided(pipe))
        self.seeds = range(FIRST_SEED, FIRST_SEED + num_images)
        self._conditions = Conditions(pipe, self.task.call_kwargs, num_images)
        self._wanted = cache(partial(self.task.noise.latents, count=LEARNED_ON))

    def row(self, resting: Resting, count: int, how: str) -> dict[str, Any]:
        """MACs and PSNR in dB, of every image too, where so many steps compute and the others do this."""
        mask = resting.mask(count, None if how == "hold" else "linear")
        plan = self._learned(resting, mask) if how == "line, learned" else make_plan(mask, self.task.graph)
        with resting.running(plan) as running:
            psnr = psnr_per_image(self._sampler(running).masked(0, self.seeds)[0], self._full)
        return {
            "rests": resting.rests,
            "keeps": resting.keeps,
            "key_steps": count,
            "forecast": how,
            "macs": self.task.costs.fraction(plan),
            **Spread.of(psnr).to_dict(),
            "psnr": [round(one, 3) for one in psnr.tolist()],
        }

    @cached_property
    def _full(self) -> Tensor:
        every = make_plan(self.task.mask(np.ones(self.task.shape, dtype=bool)), self.task.graph)
        return self._sampler(every).full(0, self.seeds)[0]

    def _sampler(self, plan: Plan) -> Sampler:
        return Sampler(self.task, plan, self._conditions)

    def _learned(self, resting: Resting, mask: StepMask) -> Plan:
        """Key steps with one factor of the slope for each step, fitted on some images and chosen on as many others."""
        task = self.task
        start = mask.with_actions(mask.actions, weights={resting.kept: np.ones((mask.num_rows, 2, 1))})

        def errors(first: int, tables: list[Table]) -> list[Tensor]:
            found = []
            for table in tables:
                with resting.running(table.plan(task)) as plan, task.apply(plan):
                    latents = task.noise.latents(first, LEARNED_ON)
                found.append((latents - self._wanted(first)).flatten(1).double())
            return found

        with frozen(task.denoiser):
            return newton_step(start, task.graph, partial(errors, 0), partial(errors, LEARNED_ON)).plan(task)


def measured(
    pipe: Any,
    steps: int = STEPS,
    counts: Sequence[int] = KEY_STEPS,
    num_images: int = NUM_IMAGES,
    tell: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """All that may rest, kept as value and as residual; of half the blocks the first of the counts, nothing learned.

    Args:
        pipe: As `Measurement` takes it.
        steps: Steps of a run.
        counts: How many of them compute.
        num_images: How many are compared.
        tell: Called with each line of the result.

    Returns:
        Circumstances, and the row of each mask.
    """
    measurement, rows = Measurement(pipe, steps, num_images), []
    for resting in restings(measurement.task):
        every = resting.rests == "all blocks"
        for count, how in itertools.product(*((counts, FORECASTS) if every else (counts[:1], FORECASTS[:2]))):
            row = measurement.row(resting, count, how)
            tell(f"{resting.rests:12} {resting.keeps:8} {count:2} key steps, {how:13} {row['mean']:.2f} dB")
            rows.append(row)
    known = circumstances(pipe, measurement.task.call_kwargs)
    return {**known, "steps": steps, "seeds": [*measurement.seeds], "rows": rows}


def main() -> None:
    """Measure the reference models, print, and write the raw result where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m stepmask_lab.benchmark.value_or_residual", description=__doc__)
    parser.add_argument("models", nargs="*", default=reference.OF_TABLES, help="reference models; by default four")
    parser.add_argument("-o", "--output", type=Path, help="file for the raw result, JSON; other models in it stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for model in options.models:
        print(model)
        found[model] = measured(reference.load(model))
        if options.output is not None:
            before = json.loads(options.output.read_text()) if options.output.exists() else {}
            options.output.write_text(json.dumps(before | found, indent=2) + "\n")
            print(f"wrote {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
