"""The states that a picture shows, of a plan or of a mask whose graph is not known."""

from __future__ import annotations

import numpy as np

from stepmask.liveness import Plan, State
from stepmask.mask import Action, StepMask

ORDER = (State.compute, State.forecast, State.reuse, State.dead)
"""Of a legend."""

_OF_ACTION = {Action.hold: State.reuse, Action.compute: State.compute, Action.linear: State.forecast}


def states_of(mask_or_plan: StepMask | Plan) -> np.ndarray:
    """(T, B) of `State`; of a mask what it asks for, with reuse for hold."""
    if isinstance(mask_or_plan, Plan):
        return np.asarray(mask_or_plan.states)
    return np.array([_OF_ACTION[action] for action in Action])[mask_or_plan.actions]


def shown_states(mask_or_plan: StepMask | Plan) -> dict[State, str]:
    """What a legend explains, with its name: forecasts where there are any, dead cells in plans."""
    planned, states = isinstance(mask_or_plan, Plan), states_of(mask_or_plan)
    names = {state: state.name for state in ORDER} | ({} if planned else {State.reuse: "hold"})
    if not planned:
        del names[State.dead]
    if not (states == State.forecast).any():
        del names[State.forecast]
    return names
