"""How pictures name and order what they show: sites by short names, those within others below them; cells by states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stepmask.liveness import Plan, State
from stepmask.mask import Action, StepMask
from stepmask.nesting import outline, parents_of, within

WITHIN = max(State) + 1
"""Stands among states for a cell that is not asked: a site around it rests at this step."""

_WORDS = {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block": "mid",
    "transformer_blocks": "block",
    "single_transformer_blocks": "single",
    "temporal_transformer_blocks": "temporal",
    "blocks": "block",
    "resnets": "res",
    "attentions": "attn",
    "downsamplers": "sampler",
    "upsamplers": "sampler",
}


def short_name(site: str) -> str:
    """``down_blocks.1.attentions.0`` becomes ``down 1 attn 0``; unknown words stay as they are."""
    words = [_WORDS.get(word, word) for word in site.split(".")]
    return re.sub(r"sampler 0$", "sampler", " ".join(words))


def group_of(site: str) -> str:
    """The block of the model that a site lies in: ``down 1``, ``mid``, ``block 3``."""
    words = short_name(site).split()
    return " ".join(words[:2]) if len(words) > 1 and words[1].isdigit() else words[0]


def group_starts(sites: Sequence[str]) -> list[int]:
    """Indices at which a new block of the model begins, the first left out; none where every site is its own."""
    groups = [group_of(site) for site in sites]
    starts = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    return starts if len(starts) < len(groups) - 1 else []


class Row(NamedTuple):
    """A row of a picture."""

    site: int
    """Whose cells it shows."""
    label: str
    level: int = 0
    """How many rows are around it."""
    begins: bool = False
    """Whether a block begins here, so that a gap sets it apart."""


def rows_for(sites: Sequence[str], cells: np.ndarray, share: bool = True) -> list[Row]:
    """The rows of a picture, from input to output.

    What contains others comes before those, and they are named within it.

    Args:
        sites: B names in execution order.
        cells: (T, B) what is drawn.
        share: Whether blocks of a list that follow each other and are equal in all that they contain, name by name and
            cell by cell, share their rows.
    """
    order, parents = outline(sites), parents_of(sites)
    if not any(level for _, level in order):
        starts = group_starts(sites)
        return [Row(i, _name_within(site), begins=i in starts) for i, site in enumerate(sites)]
    ends = [
        next((i for i in range(at + 1, len(order)) if order[i][1] <= level), len(order))
        for at, (_, level) in enumerate(order)
    ]

    def content(at: int) -> tuple[str, list[tuple[str, bytes]]]:
        """What must be the same in two blocks that share their rows."""
        name, parts = sites[order[at][0]], [site for site, _ in order[at : ends[at]]]
        return _unnumbered(name), [(sites[part].removeprefix(name), cells[:, part].tobytes()) for part in parts]

    rows: list[Row] = []
    shared: set[int] = set()
    for at, (site, level) in enumerate(order):
        if at in shared:
            continue
        last, contains = at, ends[at] > at + 1
        while share and contains and ends[last] < len(order) and content(ends[last]) == content(at):
            last = ends[last]
            shared.update(range(last, ends[last]))
        parent = parents[site]
        is_list = contains and sites[order[at + 1][0]].removeprefix(f"{sites[site]}.")[0].isdigit()
        label = _name_within(sites[site], "" if parent is None else sites[parent], is_list)
        number = f"–{sites[order[last][0]].rpartition('.')[2]}" if last > at else ""
        rows.append(Row(site, label + number, level, begins=contains or bool(rows and rows[-1].level > level)))
    return rows


def is_nested(rows: Sequence[Row]) -> bool:
    """Whether rows lie within others. Cells of several levels have no share of a whole."""
    return any(row.level for row in rows)


def _unnumbered(site: str) -> str:
    """The name of a numbered site without its number."""
    before, _, last = site.rpartition(".")
    return before if last.isdigit() else site


def _name_within(site: str, parent: str = "", is_list: bool = False) -> str:
    """What is left of a short name within a row of a parent: ``attn 0``, ``block 3``; ``all blocks`` of a list."""
    rest = site.removeprefix(f"{parent}.")
    if parent and rest[0].isdigit():
        rest = f"{parent.rpartition('.')[2]}.{rest}"
    if not is_list and not rest.endswith("blocks"):
        return short_name(rest)
    before, _, last = rest.rpartition(".")
    return f"{short_name(before)} all {last.replace('transformer_', '').replace('_', ' ')}".strip()


def states_of(mask_or_plan: StepMask | Plan) -> np.ndarray:
    """(T, B) of `State`, or `WITHIN`; of a mask what it asks for, with reuse for hold.

    Of a plan, what runs for what lies within it alone computes.
    """
    if isinstance(mask_or_plan, Plan):
        states = np.where(mask_or_plan.called, State.compute, mask_or_plan.states)
    else:
        of_action = {Action.hold: State.reuse, Action.compute: State.compute, Action.linear: State.forecast}
        states = np.array([of_action[action] for action in Action])[mask_or_plan.actions]
    rests = states != State.compute
    for outer, inside in within(mask_or_plan.sites).items():
        parts = [site for site in range(states.shape[1]) if inside >> site & 1]
        states[:, parts] = np.where(rests[:, [outer]], WITHIN, states[:, parts])
    return states


def shown_states(states: np.ndarray, planned: bool) -> dict[int, str]:
    """What a legend explains of (T, B) states of a plan or a mask, in its order and with its name: those that occur."""
    names = {
        State.compute: "compute",
        State.forecast: "forecast",
        State.reuse: "reuse" if planned else "hold",
        State.dead: "dead",
        WITHIN: "within what rests",
    }
    return {state: name for state, name in names.items() if (states == state).any()}
