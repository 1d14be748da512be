"""What masks take on large models, counted on the meta device.

``python -m stepmask_lab.benchmark.large [-o FILE] [MODEL ...]`` counts, for published architectures, without weights:
the cache of the masks that learning begins with, which forecast all blocks together from three values; that of masks
that let branches rest one by one; and what autograd keeps of one step of one image, with and without gradient
checkpointing. Bytes are those of 16-bit values, of one forward of one image: guidance by a second forward takes twice
as much.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepmask import BlockGraph, CostTable, StepMask, describe, make_plan, measure_cost, presets, schedules
from stepmask.inspection.describe import description_of
from stepmask.inspection.first_step import first_step
from stepmask.inspection.graph_bytes import graph_bytes
from stepmask.mask_tables import weights_of_a_line

MODELS = ("dit-xl-2-256", "pixart-sigma-1024", "sdxl", "sd3-medium", "flux-dev", "wan2.1-t2v-1.3b")
BUDGETS = (0.5, 0.3)
STEPS, NUM_VALUES = 50, 3
GIB, BYTES_OF_TWO = 2**30, 2
"""Values are counted in float32, and halved."""


def key_step_mask(
    graph: BlockGraph, cost: CostTable, budget: float, level: str, timesteps: Sequence[float] | None = None
) -> StepMask:
    """As many key steps as cost at most `budget`; the forecasts of outer sites with weights."""
    timesteps = np.linspace(999, 0, STEPS) if timesteps is None else timesteps
    counts = range(len(timesteps), 0, -1)
    masks = (schedules.key_steps(graph, timesteps, count, level=level) for count in counts)
    mask = next(mask for mask in masks if cost.fraction(make_plan(mask, graph)) <= budget)
    outer = {graph.names[site] for site in graph.within}
    forecast = [site for site, cells in zip(mask.sites, mask.forecast.T, strict=True) if site in outer and cells.any()]
    weights = {site: np.tile(weights_of_a_line(NUM_VALUES), (len(timesteps), 1, 1)) for site in forecast}
    return mask.with_actions(mask.actions, weights=weights or None)


def measured(names: Sequence[str] = MODELS, tell: Callable[[str], Any] = print) -> dict[str, Any]:
    """Bytes of each model: of caches by budget, of a graph of one step."""
    found = {}
    for name in names:
        model = presets.load(name)
        graph, cost, description = describe(model), measure_cost(model), description_of(model)
        graph_of_step = graph_bytes(description, first_step(model))
        caches = {}
        for budget in BUDGETS:
            for level in ("stack", "branch"):
                plan = make_plan(key_step_mask(graph, cost, budget, level), graph)
                caches[f"{level}, {budget:g}"] = cost.peak_cache_bytes(plan) // BYTES_OF_TWO
        checkpointed = graph_of_step.checkpointed
        found[name] = {
            "cache_bytes": caches,
            "graph_bytes": graph_of_step.plain // BYTES_OF_TWO,
            "checkpointed_bytes": None if checkpointed is None else checkpointed // BYTES_OF_TWO,
        }
        words = ", ".join(f"{key} {size / GIB:.3f}" for key, size in caches.items())
        again = "none" if checkpointed is None else f"{checkpointed / BYTES_OF_TWO / GIB:.2f}"
        kept = found[name]["graph_bytes"] / GIB
        tell(f"{name:18} cache in GiB: {words}; graph of a step {kept:.2f}, checkpointed {again}")
    return {"steps": STEPS, "values": NUM_VALUES, "bytes_a_number": BYTES_OF_TWO, "models": found}


def main() -> None:
    """Count, print, and write the raw result where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m stepmask_lab.benchmark.large", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help=f"presets; by default {', '.join(MODELS)}")
    parser.add_argument("-o", "--output", type=Path, help="file for the raw result, JSON")
    asked = parser.parse_args()
    found = measured(asked.models)
    if asked.output is not None:
        asked.output.write_text(json.dumps(found, indent=2) + "\n")
        print(f"wrote {asked.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
