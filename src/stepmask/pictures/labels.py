"""How pictures name what they show: sites by short names and in groups, cells by states."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from stepmask.liveness import Plan, State
from stepmask.mask import Action, StepMask

_WORDS = {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block": "mid",
    "transformer_blocks": "block",
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


def states_of(mask_or_plan: StepMask | Plan) -> np.ndarray:
    """(T, B) of `State`; of a mask what it asks for, with reuse for hold."""
    if isinstance(mask_or_plan, Plan):
        return np.asarray(mask_or_plan.states)
    of_action = {Action.hold: State.reuse, Action.compute: State.compute, Action.linear: State.forecast}
    return np.array([of_action[action] for action in Action])[mask_or_plan.actions]


def shown_states(mask_or_plan: StepMask | Plan) -> dict[State, str]:
    """What a legend explains, in its order and with its name: forecasts where there are any, dead cells in plans."""
    planned = isinstance(mask_or_plan, Plan)
    shown = {State.compute: "compute", State.forecast: "forecast", State.reuse: "reuse" if planned else "hold"}
    if not (states_of(mask_or_plan) == State.forecast).any():
        del shown[State.forecast]
    return shown | ({State.dead: "dead"} if planned else {})
