"""GlobalConfig: every knob of end-to-end selection, with defaults that work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepmask.errors import StepMaskError
from stepmask.learning._arguments import Knobs, check_count, check_ranges
from stepmask.mask import Action

_RANGES = {
    "rounds": (0, 10**4),
    "num_moves": (0, 10**4),
    "gains": (0, 10**4),
    "num_probes": (1, 10**4),
    "num_projections": (1, 100),
    "num_validation": (3, 10**4),
    "num_held_back": (2, 10**5),
    "graph_bytes": (0, 2**50),
    "shrink": (0.01, 0.9),
    "slack": (0.001, 0.5),
}
_WHOLE = (
    "rounds", "num_moves", "gains", "num_probes", "num_projections", "num_validation", "num_held_back", "graph_bytes"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GlobalConfig(Knobs):
    """How a mask is selected end to end.

    Attributes:
        rounds: Refining rounds at each target, after those that walk down to it.
        num_moves: Tables tried at each target by moving key steps: whole steps that compute.
        gains: Iterations in which the forecasts of the best tables at each target learn how strongly they extrapolate;
            half as many where a table has gains already; 0 for gains of 1.
        channel_gains: Whether each channel of a site has a gain too; files get longer by one number for each.
        num_probes: Images per probing run.
        num_projections: Random directions per probed image; each costs a backward pass.
        num_validation: Images, always the same, on which every candidate is judged.
        num_held_back: Images, not used before, on which the result is measured.
        shrink: How far the cost falls at most in one round, as a share of it.
        slack: How much of the target is at most taken away first and then given back elsewhere; it adapts.
        forecast: Whether cells may extrapolate; without, the mask is binary.
        images_per_call: Most images that are run at once: fewer take less memory and more time; None for all.
        offload: Keep what the sites compute in host memory between the passes; for accelerators.
        graph_bytes: Of autograd graphs that may be kept from the way forth for the way back. Steps beyond are computed
            again: with 0 all of them, one at a time, which takes less memory, and a third more time for gains.
        objective: Maps final latents, as ``vae.decoder`` of an AutoencoderKL or ``vae.decode`` of others reads them, or
            images where the pipeline has no decoder, (N, ...) to features (N, ...) whose squared distance is made
            small; differentiable. Candidates are judged by it too. None judges them by the PSNR of the images, and
            makes the distance of the latents small on the way.
    """

    rounds: int = 4
    num_moves: int = 12
    gains: int = 40
    channel_gains: bool = True
    num_probes: int = 8
    num_projections: int = 1
    num_validation: int = 8
    num_held_back: int = 16
    shrink: float = 0.12
    slack: float = 0.06
    forecast: bool = True
    images_per_call: int | None = None
    offload: bool = False
    graph_bytes: int = 2**30
    objective: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES, _WHOLE)
        if self.images_per_call is not None:
            check_count("images_per_call", self.images_per_call)
        if self.objective is not None and not callable(self.objective):
            raise StepMaskError(f"objective must be a function of images, got {type(self.objective).__name__}")

    @property
    def learns_gains(self) -> bool:
        """Whether forecasts learn how strongly they extrapolate."""
        return self.forecast and self.gains > 0

    @property
    def allowed(self) -> tuple[Action, ...]:
        """Actions that cells may take instead of computing."""
        return (Action.hold, Action.linear) if self.forecast else (Action.hold,)
