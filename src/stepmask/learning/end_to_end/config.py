"""EndToEnd: the options of the default way to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepmask.learning.configuration import Configuration, option
from stepmask.mask import Action


@dataclass(frozen=True, kw_only=True)
class Tuning(Configuration):
    """Numbers of the search that were tuned once on the reference models; docs/learning.md says what they do."""

    slope_down: float = option(
        20.0,
        "What a table is expected to lose on the way down to a target, per factor e in cost.",
        low=0.0,
        high=1e3,
        unit="dB",
    )
    slope_up: float = option(
        10.0,
        "What a table is expected to win on the way up to a target, per factor e in cost.",
        low=0.0,
        high=1e3,
        unit="dB",
    )
    patience: float = option(
        2.0, "How much less a table counts each time that it has been started from.", low=0.0, high=1e3, unit="dB"
    )
    shortfall: float = option(
        3.0,
        "How much worse than predicted a round on the way down may come out before it is made again.",
        low=0.0,
        high=1e3,
        unit="dB",
    )
    near_below: float = option(
        0.75, "Tables of at least so many times the target's cost are started from in refining.", low=0.0, high=1.0
    )
    near_above: float = option(
        1.15, "Tables of at most so many times the target's cost are started from in refining.", low=1.0, high=10.0
    )
    hopeless: float = option(
        2.5,
        "A table that is so far behind on the first images is not measured on the others.",
        low=0.0,
        high=1e3,
        unit="dB",
    )
    reach: float = option(
        1.03, "Key steps that cost at most so many times the target are moved and learn gains too.", low=1.0, high=2.0
    )
    climb_behind: float = option(
        4.0, "Key steps that are further behind the best table are not moved.", low=0.0, high=1e3, unit="dB"
    )
    fit_behind: float = option(
        8.0, "Key steps that are further behind the best table learn no gains.", low=0.0, high=1e3, unit="dB"
    )
    mended: float = option(
        0.35,
        "How many cells may change between hold and forecast in a round, as a share of all cells, times the slack.",
        low=0.0,
        high=1.0,
    )
    finalists: int = option(
        3, "So many proposals of a round, the best on the first images, are measured on all.", low=1, high=100
    )
    patient_cells: int = option(
        24,
        "So many of the cells that look best by what they cost alone have their cost in the plan measured.",
        low=1,
        high=10**4,
    )
    damping: float = option(
        1.5,
        "The weight of the quadratic part of the error, since changes are larger than the linear model says.",
        low=0.0,
        high=100.0,
    )
    gain_rate: float = option(
        0.1,
        "How far a gain moves in one iteration at most, at the beginning; it falls to 0 as a cosine.",
        low=0.0,
        high=10.0,
    )
    learned_gain_rate: float = option(0.03, "The same for gains that were learned before.", low=0.0, high=10.0)
    channel_share: float = option(1 / 3, "How far the gain of a channel moves, as a share of that.", low=0.0, high=10.0)
    negligible_gain: float = option(0.02, "A forecast of a smaller gain holds.", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class EndToEnd(Configuration):
    """The default way to learn: actions are selected by what they do to the final image."""

    rounds: int = option(
        4, "Refining rounds at each target, after those that walk down to it.", low=0, high=10**4, unit="rounds"
    )
    num_moves: int = option(
        12,
        "Tables tried at each target by moving key steps, which are whole steps that compute.",
        low=0,
        high=10**4,
        unit="tables",
    )
    gains: int = option(
        40,
        "Iterations in which the forecasts of the best tables at each target learn how strongly they extrapolate; half "
        "as many where a table has gains already; 0 for gains of 1.",
        low=0,
        high=10**4,
        unit="iterations",
    )
    channel_gains: bool = option(
        True, "Whether each channel of a site has a gain too; mask files get longer by one number for each."
    )
    num_probes: int = option(8, "Images per probing run.", low=1, high=10**4, unit="images")
    num_projections: int = option(
        1, "Random directions per probed image; each costs a backward pass.", low=1, high=100, unit="directions"
    )
    num_validation: int = option(
        8, "Images, always the same, on which every candidate is judged.", low=3, high=10**4, unit="images"
    )
    num_held_back: int = option(
        16,
        "Images, not used before, on which the result is measured.",
        low=2,
        high=10**5,
        unit="images",
        may_change=True,
    )
    shrink: float = option(
        0.12, "The cost falls by at most this share of itself in one round on the way down.", low=0.01, high=0.9
    )
    slack: float = option(
        0.06,
        "In refining, at most this share of the target's cost is taken away first and then given back to other cells; "
        "the share adapts to what helps.",
        low=0.001,
        high=0.5,
    )
    forecast: bool = option(True, "Whether cells may extrapolate; without, the mask is binary.")
    images_per_call: int | None = option(
        None,
        "Most images that are run at once: fewer take less memory and more time; by default all.",
        low=1,
        high=10**6,
        unit="images",
        may_change=True,
    )
    offload: bool = option(
        False,
        "Whether what the sites compute waits in host memory between the passes; for accelerators.",
        may_change=True,
    )
    graph_bytes: int = option(
        2**30,
        "Most bytes of autograd graphs that are kept from the forward for the backward pass. Steps beyond are computed "
        "again: with 0 all of them, one at a time, which takes less memory, and a third more time for gains.",
        low=0,
        high=2**50,
        unit="bytes",
        may_change=True,
    )
    objective: Callable[[Any], Any] | None = option(
        None,
        "A differentiable function that maps final latents (N, ...), as the decoder of the pipeline reads them, or "
        "images where it has no decoder, to features (N, ...) whose squared distance is made small. Candidates are "
        "judged by it too. Without one they are judged by the PSNR of the images, and the distance of the latents is "
        "made small on the way.",
        on_command_line=False,
    )
    tuning: Tuning = option(Tuning(), "Numbers that were tuned once; see `Tuning`.", on_command_line=False)

    @property
    def learns_gains(self) -> bool:
        """Whether forecasts learn how strongly they extrapolate."""
        return self.forecast and self.gains > 0

    @property
    def allowed(self) -> tuple[Action, ...]:
        """Actions that cells may take instead of computing."""
        return (Action.hold, Action.linear) if self.forecast else (Action.hold,)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values; the tuning only where it is not the usual one."""
        found = super().to_dict()
        if self.tuning == Tuning():
            del found["tuning"]
        return found
