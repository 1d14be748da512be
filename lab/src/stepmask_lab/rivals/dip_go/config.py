"""DipGo: the options of learning through the whole run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stepmask.learning.configuration import Configuration, option

Consistency = Literal["ssim", "squared"]


@dataclass(frozen=True, kw_only=True)
class DipGo(Configuration):
    """How gates are learned through the whole run."""

    iterations: int = option(
        100,
        "Runs of the pipeline to learn from, each with fresh noise, forwards and backwards.",
        low=1,
        high=10**6,
        unit="runs",
    )
    chain_images: int = option(4, "Images per run.", low=1, high=10**4, unit="images")
    pruner_learning_rate: float = option(
        0.01, "Learning rate of the network that predicts the gates.", low=1e-6, high=1.0
    )
    consistency: Consistency = option(
        "ssim",
        "How the final image is held to the full run's: by structural similarity (ssim, which needs pictures or "
        "latents of the shape (N, C, H, W)), or by the mean squared error over that of the image (squared).",
    )
    sparsity_weight: float = option(
        1.0, "Weight of the mean gate, weighted by MACs, beside the consistency.", low=0.0, high=1e6
    )
    checkpointing: bool = option(
        True,
        "Whether only what goes from step to step is kept, and each step is run again on the way back; without, the "
        "graphs of all steps are in memory at once.",
    )
