"""A map of a mask or plan for the terminal: one line per site, one character per step or few steps."""

from __future__ import annotations

import numpy as np
from rich.console import Group
from rich.text import Text

from stepmask.liveness import Plan, State
from stepmask.mask import StepMask
from stepmask.pictures.labels import WITHIN, rows_for, shown_states, states_of

GLYPHS = {State.compute: "█", State.forecast: "▒", State.reuse: "░", State.dead: "·", WITHIN: " "}
SHADES = " ░▒▓█"
"""Where a character stands for several steps: none, up to a third, up to two thirds, most, all of them compute."""


def terminal_map(mask_or_plan: StepMask | Plan, width: int = 100) -> Group:
    """Return what ``rich.print`` shows: at most `width` characters wide, and readable without colours.

    What contains others has its line above theirs. Blocks that are equal in every cell share their lines.

    Args:
        mask_or_plan: A plan shows compute, forecast, reuse and dead; a mask compute, forecast and hold. What lies
            within a site that rests is left blank.
        width: Characters.
    """
    states = states_of(mask_or_plan)
    rows, num_steps = rows_for(mask_or_plan.sites, states), len(states)
    names = ["  " * row.level + row.label for row in rows]
    space = len(f"{num_steps}/{num_steps}")
    label = min(max(map(len, names)), max(8, width // 3))
    steps = -(-num_steps // max(1, width - label - space - 2))  # per character
    lines = [_scale(label, num_steps, steps)]
    for row, name in zip(rows, names, strict=True):
        compute = states[:, row.site] == State.compute
        cells = _shaded(compute, steps) if steps > 1 else "".join(GLYPHS[state] for state in states[:, row.site])
        shown = name if len(name) <= label else "…" + name[1 - label :]
        line = Text(shown.ljust(label), style="bold" if row.begins or row is rows[0] else "")
        line.append(f" {cells} ", style="cyan").append(f"{compute.sum()}/{num_steps}".rjust(space), style="dim")
        lines.append(line)
    lines.append(Text(_legend(shown_states(states, isinstance(mask_or_plan, Plan)), steps), style="dim"))
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


def _legend(shown: dict[int, str], steps: int) -> str:
    if steps > 1:
        return f"{steps} steps per character: ░▒▓ some compute, █ all"
    return "  ".join(f"{GLYPHS[state].replace(' ', repr(' '))} {name}" for state, name in shown.items())
