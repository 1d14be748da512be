"""EndToEnd: the options of the default way to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stepmask.cost import BATCH_SIZE
from stepmask.learning.configuration import Configuration, option
from stepmask.mask import Action

_decibels = partial(option, low=0.0, high=1e3, unit="dB")
_factor = partial(option, low=0.0, high=100.0)


@dataclass(frozen=True, kw_only=True)
class Tuning(Configuration):
    """Numbers of the search that were tuned once, on the reference models."""

    slope_down: float = _decibels(20.0, "Expected loss of a table on the way down to a target, per factor e in cost.")
    slope_up: float = _decibels(10.0, "Expected gain of a table on the way up to a target, per factor e in cost.")
    patience: float = _decibels(2.0, "How much less a table counts each time that it has been started from.")
    shortfall: float = _decibels(3.0, "A round on the way down that misses its prediction by more is made again.")
    near_below: float = _factor(0.75, "Refining starts from tables of at least so many times the target's cost.")
    near_above: float = _factor(1.15, "Refining starts from tables of at most so many times the target's cost.")
    over: float = _factor(1.2, "The same, where whole steps with weights are refined.")
    hopeless: float = _decibels(2.5, "A table further behind on the first images is not measured on the others.")
    reach: float = _factor(1.04, "Key steps that cost at most so many times the target are moved and learn gains.")
    mended: float = _factor(0.35, "Share of all cells, times the slack, that may change between hold and forecast.")
    finalists: int = option(3, "Proposals of a round that are measured on all images.", low=1, high=100)
    patient_cells: int = option(24, "Cells whose cost in the plan is measured before one is chosen.", low=1, high=10**4)
    damping: float = _factor(1.5, "Weight of the quadratic part of the error: changes are larger than a line says.")
    gain_rate: float = _factor(0.1, "How far a gain moves in one iteration at first; it falls to 0 as a cosine.")
    learned_gain_rate: float = _factor(0.03, "The same for gains that were learned before.")
    channel_share: float = _factor(1 / 3, "How far the gain of a channel moves, as a share of that.")
    weight_share: float = _factor(0.5, "How far a weight of one row and channel moves, as a share of that.")
    negligible_gain: float = _factor(0.02, "A forecast of a smaller gain holds.")


@dataclass(frozen=True, kw_only=True)
class EndToEnd(Configuration):
    """The default way to learn: actions are selected by what they do to the final image."""

    rounds: int = option(
        4, "Refining rounds at each target, after those that walk down to it.", low=0, high=10**4, unit="rounds"
    )
    num_moves: int = option(
        12,
        "Tables tried at each target by moving key steps, which are whole steps that compute, where gradients learn no "
        "weights; four times as many by runs alone.",
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
    num_values: int = option(
        3,
        "Of so many values a block, or a list of blocks, is forecast, with a learned weight for each step and channel; "
        "fewer where the cache has no room; 0 for lines with gains.",
        low=0,
        high=4,
        unit="values",
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
    coarse: bool | None = option(
        None,
        "Whether all blocks rest together at most steps, forecast with weights, and cells within the others are "
        "refined; if not, each cell is chosen by itself. By default the first; and the second too at budgets of more "
        "than 12 steps where skip connections lead around blocks, as in U-Nets, and the cache has room for values of "
        "all innermost sites.",
    )
    gradients: bool = option(
        True,
        "Whether gradients of the images decide; without, key steps are moved and weights fitted step by step, by runs "
        "alone. Where none comes back, learning goes on so by itself.",
    )
    forecast: bool = option(True, "Whether cells may extrapolate; without, the mask is binary.")
    images_per_call: int | None = option(
        None,
        "Most images that are run at once: fewer take less memory and more time; by default as many as fit.",
        low=1,
        high=10**6,
        unit="images",
        may_change=True,
    )
    speed_batch_size: int = option(
        BATCH_SIZE,
        "Images that will be sampled at once with the mask: a speed-up is asked for by latencies of so many. Other "
        "targets do not depend on it.",
        low=1,
        high=10**6,
        unit="images",
    )
    offload: bool | None = option(
        None,
        "Whether what the sites compute waits in host memory between the passes; for accelerators. By default where "
        "the device would not hold it.",
        may_change=True,
    )
    gradient_checkpointing: bool | None = option(
        None,
        "Whether blocks of the denoiser run again on the way back, in the place of keeping their graphs, as diffusers "
        "can do it. By default where the graph of one call would not fit.",
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
