"""A map of a mask or plan for the terminal: one line per site, one character per step or few steps."""

from __future__ import annotations

import numpy as np
from rich.console import Group
from rich.text import Text

from stepmask.liveness import Plan, State
from stepmask.mask import StepMask
from stepmask.pictures.labels import group_starts, short_name, shown_states, states_of

GLYPHS = {State.compute: "█", State.forecast: "▒", State.reuse: "░", State.dead: " "}
SHADES = " ░▒▓█"
"""Where a character stands for several steps: none, up to a third, up to two thirds, most, all of them compute."""


def terminal_map(mask_or_plan: StepMask | Plan, width: int = 100) -> Group:
    """Return what ``rich.print`` shows: at most `width` characters wide, and readable without colours.

    Args:
        mask_or_plan: A plan shows compute, forecast, reuse and dead; a mask compute, forecast and hold.
        width: Characters.
    """
    states = states_of(mask_or_plan)
    compute, sites, rows = states == State.compute, mask_or_plan.sites, len(states)
    names = [short_name(site) for site in sites]
    space = len(f"{rows}/{rows}")
    label = min(max(map(len, names)), max(8, width // 3))
    steps = -(-rows // max(1, width - label - space - 2))  # per character
    starts = set(group_starts(sites))
    lines = [_scale(label, rows, steps)]
    for i, name in enumerate(names):
        cells = _shaded(compute[:, i], steps) if steps > 1 else "".join(GLYPHS[State(s)] for s in states[:, i])
        shown = name if len(name) <= label else "…" + name[1 - label :]
        line = Text(shown.ljust(label), style="bold" if i in starts or i == 0 else "")
        line.append(f" {cells} ", style="cyan").append(f"{compute[:, i].sum()}/{rows}".rjust(space), style="dim")
        lines.append(line)
    lines.append(Text(_legend(mask_or_plan, steps), style="dim"))
    return Group(*lines)


def _shaded(cells: np.ndarray, steps: int) -> str:
    shares = [cells[i : i + steps].mean() for i in range(0, len(cells), steps)]
    return "".join(SHADES[0 if s == 0 else 4 if s == 1 else 1 + min(2, int(3 * s))] for s in shares)


def _scale(label: int, rows: int, steps: int) -> Text:
    characters, marks = -(-rows // steps), ""
    for position in range(0, characters, 10):
        text = str(position * steps)
        if position + len(text) <= characters:
            marks = marks.ljust(position) + text
    return Text(f"{'step'.rjust(label)} {marks.ljust(characters)}", style="dim")


def _legend(mask_or_plan: StepMask | Plan, steps: int) -> str:
    if steps > 1:
        return f"{steps} steps per character: ░▒▓ some compute, █ all"
    return "  ".join(f"{GLYPHS[s].replace(' ', repr(' '))} {name}" for s, name in shown_states(mask_or_plan).items())
