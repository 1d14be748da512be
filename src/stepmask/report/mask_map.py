"""The T x B map of a mask as JSON values: what every cell does, and what the page needs to say why.

One letter a cell, so that masks of hundreds of sites stay small. With a plan and a cost table also what is kept, what
it costs and how many bytes it takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stepmask.cost import CostTable
from stepmask.errors import StepMaskError
from stepmask.liveness import Plan, State
from stepmask.mask import SYMBOLS, Action, StepMask
from stepmask.pictures.labels import WITHIN, rows_for, states_of

MAX_CELLS = 120_000
"""Of a map: beyond, browsers get slow."""

LETTERS = {State.dead: "d", State.reuse: "r", State.compute: "c", State.forecast: "f", WITHIN: "w"}
CALLED = "C"
"""Stands for a cell that runs for what lies within it alone."""


def mask_map(mask_or_plan: StepMask | Plan, cost: CostTable | None = None) -> dict[str, Any]:
    """What the page draws a map from.

    Args:
        mask_or_plan: A mask shows what it asks for, a plan what runs after elimination.
        cost: Of the plan's model.

    Raises:
        StepMaskError: It has more cells than a page can show.
    """
    plan = mask_or_plan if isinstance(mask_or_plan, Plan) else None
    mask = plan.mask if plan else mask_or_plan
    states = states_of(mask_or_plan)
    if states.size > MAX_CELLS:
        raise StepMaskError(
            f"the mask has {states.size:,} cells, and a page shows at most {MAX_CELLS:,}: draw it with stepmask show"
        )
    letters = np.array([LETTERS[state] for state in sorted(LETTERS)])[states]
    if plan:
        letters[plan.called & ~plan.compute & (states != WITHIN)] = CALLED
    sites, place = [], {name: i for i, name in enumerate(mask.sites)}
    for row in rows_for(mask_or_plan.sites, states, share=False):
        name = mask_or_plan.sites[row.site]
        site = {"name": name, "label": row.label, "level": row.level, "begins": row.begins}
        site["states"] = "".join(letters[:, row.site])
        if name in place:
            site |= _asked(mask, place[name])
        if plan:
            site["keep"] = "".join(str(min(9, count)) for count in plan.keep[:, row.site].tolist())
        if cost is not None:
            site |= _costs(cost, name)
        sites.append(site)
    found: dict[str, Any] = {"times": list(mask.timesteps), "planned": plan is not None, "sites": sites}
    if cost is not None:
        found |= {"always": cost.shares()[1], "stepMacs": cost.step_macs, "macs": cost.fraction(mask_or_plan)}
        if plan and cost.value_bytes is not None:
            found["peakBytes"] = cost.peak_cache_bytes(plan)
    return found


def _asked(mask: StepMask, column: int) -> dict[str, Any]:
    """What the mask says of one of its sites: actions, gains other than 1 by step, terms of weighted forecasts."""
    found: dict[str, Any] = {"asked": "".join(SYMBOLS[Action(cell)] for cell in mask.actions[:, column].tolist())}
    if mask.gains is not None:
        gains = mask.gains[:, column]
        found["gains"] = {int(step): round(float(gains[step]), 4) for step in np.flatnonzero(gains != 1)}
    name = mask.sites[column]
    if name in (mask.channel_gains or {}):
        found["channels"] = len(mask.channel_gains[name])
    if name in (mask.weights or {}):
        found["terms"] = mask.weights[name].shape[1]
    return found


def _costs(cost: CostTable, name: str) -> dict[str, Any]:
    """Share of a full step that a site takes itself, without what lies within it, and the bytes of its value."""
    place = cost.sites.index(name)
    found = {"cost": float(cost.shares()[0][place])}
    if cost.value_bytes is not None:
        found["bytes"] = int(cost.value_bytes[place])
    return found
