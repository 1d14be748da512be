"""FullChainConfig: every knob of learning through the whole run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stepmask.learning._arguments import Knobs, check_choices, check_ranges

Consistency = Literal["ssim", "squared"]

_RANGES = {
    "iterations": (1, 10**6),
    "chain_images": (1, 10**4),
    "pruner_learning_rate": (1e-6, 1.0),
    "sparsity_weight": (0.0, 1e6),
}
_WHOLE = ("iterations", "chain_images")


@dataclass(frozen=True, kw_only=True)
class FullChainConfig(Knobs):
    """How gates are learned through the whole run.

    Attributes:
        iterations: Runs of the pipeline to learn from, each with fresh noise, forwards and backwards.
        chain_images: Images per run.
        pruner_learning_rate: Of the network that predicts the gates.
        consistency: How the final image is held to the full run's: by structural similarity (``"ssim"``, needs
            pictures or latents of the shape (N, C, H, W)), or by the mean ``"squared"`` error over that of the image.
        sparsity_weight: Of the mean gate, weighted by MACs, beside the consistency.
        checkpointing: Keep only what goes from step to step, and run each step again on the way back; without, the
            graphs of all steps are in memory at once.
    """

    iterations: int = 100
    chain_images: int = 4
    pruner_learning_rate: float = 0.01
    consistency: Consistency = "ssim"
    sparsity_weight: float = 1.0
    checkpointing: bool = True

    def __post_init__(self) -> None:
        check_choices(self, {"consistency": Consistency})
        check_ranges(self, _RANGES, _WHOLE)
