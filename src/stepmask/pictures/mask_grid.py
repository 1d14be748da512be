"""The whole decision, cell by cell: compute, forecast, reuse, dead; where no graph is known compute, forecast, hold."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from stepmask.liveness import Plan, State
from stepmask.mask import StepMask
from stepmask.pictures.figures import BLUE, GREEN, LIGHT, PALE, separate_groups, site_table, title
from stepmask.pictures.labels import shown_states, states_of

_COLOURS = {State.dead: PALE, State.reuse: LIGHT, State.compute: BLUE, State.forecast: GREEN}


def grid(mask_or_plan: StepMask | Plan, macs_fraction: float | None = None) -> Figure:
    """Draw every cell: sites from input (top) to output, steps from noise (left) to image.

    Args:
        mask_or_plan: A plan, or a mask, which has no dead cells.
        macs_fraction: The share of the full run's MACs, which the title names.
    """
    states = states_of(mask_or_plan)
    rows, sites = len(states), mask_or_plan.sites
    figure, axes = site_table(sites, rows, column_inches=max(0.06, min(0.16, 12 / rows)), bottom=1.15)
    axes.pcolormesh(
        np.arange(rows + 1) - 0.5,
        np.arange(len(sites) + 1) - 0.5,
        states.T,
        cmap=ListedColormap([_COLOURS[state] for state in State]),
        vmin=0,
        vmax=max(State),
        edgecolors="white",
        linewidth=0.4 if rows <= 120 else 0,
    )
    axes.invert_yaxis()
    separate_groups(axes, sites)
    ticks = np.arange(0, rows, max(1, -(-rows // 10)))
    timesteps = [f"{step}\n{_timestep(mask_or_plan, step)}" for step in ticks]
    axes.set_xticks(ticks, timesteps, fontsize=8)
    axes.set_xlabel("step, with its timestep below")
    patches = [
        Patch(color=_COLOURS[state], label=f"{name} {np.mean(states == state):.0%}")
        for state, name in shown_states(mask_or_plan).items()
    ]
    below = -1.05 / (figure.get_figheight() * axes.get_position().height)  # in heights of the table
    axes.legend(
        handles=patches, loc="lower left", bbox_to_anchor=(0.0, below), ncols=4, frameon=False, fontsize=9,
        borderaxespad=0, borderpad=0, handlelength=1, handleheight=1, columnspacing=1.2,
    )  # fmt: skip
    heading = "What runs at every step" if isinstance(mask_or_plan, Plan) else "What the mask decides"
    title(axes, heading, "" if macs_fraction is None else f"{macs_fraction:.1%} of the full run's MACs")
    return figure


def _timestep(mask_or_plan: StepMask | Plan, step: int) -> str:
    mask = mask_or_plan.mask if isinstance(mask_or_plan, Plan) else mask_or_plan
    return f"{mask.timesteps[step]:.0f}" if abs(mask.timesteps[step]) >= 10 else f"{mask.timesteps[step]:.3g}"
