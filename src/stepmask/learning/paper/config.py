"""Paper: the options of the paper's way to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stepmask.learning.configuration import Configuration, option

Sampling = Literal["random", "gumbel", "interpolation"]
Trajectory = Literal["student", "teacher"]
SparseWeights = Literal["uniform", "macs"]


@dataclass(frozen=True, kw_only=True)
class ScoreConfiguration(Configuration):
    """What all ways to learn by scores of cells have in common."""

    num_trajectories: int = option(
        32, "Runs of the pipeline to learn from, each with fresh noise.", low=1, high=10**6, unit="runs"
    )
    batch_size: int = option(
        4, "Images per run; where masks are drawn, each image draws its own.", low=1, high=10**5, unit="images"
    )
    learning_rate: float = option(0.08, "How far a score moves per run at most, by Adam.", low=1e-6, high=1.0)
    initial_score: float = option(0.7, "Where all scores begin.", low=0.0, high=1.0)
    lambda_sparse: float = option(
        1e-3, "lambda_1, the weight of the L1 norm, where no target is given; else it is found.", low=1e-12, high=1e12
    )


@dataclass(frozen=True, kw_only=True)
class Paper(ScoreConfiguration):
    """arXiv 2603.19939 as we read it: an L1 penalty, every step of equal weight, scores learned step by step."""

    sampling: Sampling = option(
        "random",
        "What a cell hands out while learning: random draws a Bernoulli variable with a straight-through gradient, "
        "gumbel a relaxed one, interpolation mixes the two values (Eq. 4 taken literally).",
    )
    temperature: float = option(0.5, "The temperature of the Gumbel-Softmax.", low=1e-3, high=10.0)
    trajectory: Trajectory = option(
        "student", "Whose output the sampler goes on with: the masked model's (student) or the original's (teacher)."
    )
    scale_loss: bool = option(True, "Whether w(t) of Eq. 10 scales the regularisers.")
    lambda_bimodal: float = option(
        0.1,
        "lambda_2 at the end of learning, relative to lambda_1; it grows linearly from 0.",
        low=0.0,
        high=1e3,
    )
    sparse_weights: SparseWeights = option(
        "uniform", "What a computing cell costs in the penalty: the same for all (the paper), or its MACs."
    )
