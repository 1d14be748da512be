"""LearnConfig: every knob of the learner, with defaults that work."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any, Literal

from stepmask.errors import StepMaskError
from stepmask.learning._arguments import Knobs, check_choices, check_ranges

Sparsity = Literal["search", "projection", "penalty"]
Sampling = Literal["random", "gumbel", "interpolation", "threshold"]
Trajectory = Literal["student", "teacher"]
SparseWeights = Literal["plan", "macs", "latency", "uniform"]
Importance = Literal["final", "proxy", "uniform"]
Loss = Literal["relative", "squared"]

_CHOICES = {
    "sparsity": Sparsity,
    "sampling": Sampling,
    "trajectory": Trajectory,
    "sparse_weights": SparseWeights,
    "importance": Importance,
    "loss": Loss,
}
_RANGES = {
    "num_trajectories": (1, 10**6),
    "batch_size": (1, 10**5),
    "learning_rate": (1e-6, 1.0),
    "initial_score": (0.0, 1.0),
    "exploration": (0.0, 0.4),
    "threshold": (0.0, 0.99),
    "temperature": (1e-3, 10.0),
    "lambda_sparse": (1e-12, 1e12),
    "lambda_bimodal": (0.0, 1e3),
    "credit_steps": (0, 10**4),
}
_WHOLE = ("num_trajectories", "batch_size", "credit_steps")
_PENALTY_ONLY = ("lambda_bimodal", "sparse_weights")


@dataclass(frozen=True, kw_only=True)
class LearnConfig(Knobs):
    """How a mask is learned.

    ``LearnConfig.paper()`` is arXiv 2603.19939 as we read it, ``LearnConfig.harmonica()`` and ``LearnConfig.l2c()`` are
    HarmoniCa and Learning-to-Cache; the defaults go beyond them where that was measured to help (docs/learning.md), at
    the same memory of one step.

    Attributes:
        num_trajectories: Runs of the pipeline to learn from, each with fresh noise.
        batch_size: Images per run; under random sampling each draws its own mask.
        sparsity: ``"search"`` starts from the best regular schedule within the budget and exchanges cells whose
            computation is worth little for what it costs in the plan against others worth more, where that brings
            the final image of held-back noise closer to the full run's. ``"projection"`` starts from the full run
            and keeps the rounded scores on a budget that falls to the target: after each run the cells worth least
            are pushed down, all others up. ``"penalty"`` is Eq. 8: lambda_1 times the L1 norm of the scores, lambda_1
            steered towards the target.
        learning_rate: How far a score moves per run at most.
        initial_score: Where all scores begin.
        exploration: Scores are kept this far from 0 and 1, so that every cell is tried both ways.
        sampling: ``"random"`` draws Bernoulli(s) with a straight-through gradient, ``"gumbel"`` a relaxed Bernoulli,
            ``"interpolation"`` mixes the two values (Eq. 4 taken literally), ``"threshold"`` computes where the score
            exceeds `threshold`, with a straight-through gradient.
        threshold: A cell whose score exceeds it computes: in the mask, where no target decides, and in the cache of
            mixed values.
        balanced: With random sampling, weigh draws so that holding and computing count alike however likely they
            are: the plain straight-through gradient all but vanishes for a score near 1.
        temperature: Of the Gumbel-Softmax.
        trajectory: Whose output the sampler continues with, the masked model's or the original's.
        importance: Weigh each step's loss by how much its error moves the ``"final"`` image, by the squared error of
            the final image where that step alone is reused (``"proxy"``, HarmoniCa), or all alike (``"uniform"``, the
            paper).
        loss: Of a step's output: ``"relative"`` is the L2 norm of the error over that of the original, ``"squared"``
            the mean square of the error.
        alternate: Only every second step may reuse, what the step before it computed in full (Learning-to-Cache).
        credit_steps: For how many later steps a computation is credited with the errors that its fresh value
            avoids; 0 is the paper. Costs one more cached value per site and step.
        scale_loss: Whether w(t) of Eq. 10 scales the regularisers.
        lambda_sparse: lambda_1 where no target is given; otherwise it is found.
        lambda_bimodal: lambda_2 at the end of learning, relative to lambda_1; it grows linearly from 0.
        sparse_weights: What a computing cell costs in the penalty: its ``"macs"``, its measured ``"latency"``, the
            same for all (``"uniform"``, the paper), or what it costs in the ``"plan"``, elimination included.
    """

    num_trajectories: int = 16
    batch_size: int = 4
    sparsity: Sparsity = "search"
    learning_rate: float = 0.5
    initial_score: float = 0.92
    exploration: float = 0.08
    threshold: float = 0.5
    sampling: Sampling = "random"
    balanced: bool = True
    temperature: float = 0.5
    trajectory: Trajectory = "student"
    importance: Importance = "final"
    loss: Loss = "relative"
    alternate: bool = False
    credit_steps: int = 4
    scale_loss: bool = False
    lambda_sparse: float = 1e-3
    lambda_bimodal: float = 0.1
    sparse_weights: SparseWeights = "macs"

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        check_ranges(self, _RANGES, _WHOLE)
        if self.alternate and self.sparsity == "search":
            raise StepMaskError(
                'alternate needs sparsity="penalty" or "projection": regular schedules do not alternate'
            )
        if self.sparsity != "penalty":
            defaults = {field.name: field.default for field in fields(self)}
            ignored = [name for name in _PENALTY_ONLY if getattr(self, name) != defaults[name]]
            if ignored:
                warnings.warn(f'{", ".join(ignored)} is used only with sparsity="penalty"', stacklevel=3)

    @classmethod
    def paper(cls, **changes: Any) -> LearnConfig:
        """The paper's learner: an L1 penalty, every step of equal weight, no credit for later steps."""
        values = {
            "num_trajectories": 32,
            "sparsity": "penalty",
            "learning_rate": 0.08,
            "initial_score": 0.7,
            "exploration": 0.0,
            "balanced": False,
            "importance": "uniform",
            "credit_steps": 0,
            "scale_loss": True,
            "sparse_weights": "uniform",
        }
        return cls(**{**values, **changes})

    @classmethod
    def harmonica(cls, **changes: Any) -> LearnConfig:
        """HarmoniCa (Huang et al., ICML 2025, arXiv 2410.01723): the whole run of the student, weighted by image error.

        Taken from there: learning without images along the masked model's own run, with the caches that it would have;
        a straight-through threshold of 0.1; the squared error of each step's output, weighted by the squared error of
        the final image where that step alone is reused; an L1 norm of the scores. What differs: scores move in [0, 1],
        theirs are logits under a sigmoid; the weights are measured once, with all other steps computed, theirs again
        every 500 iterations under the router of that moment; the penalty is steered to the target and cells are held
        or computed to meet it, where they choose its weight by hand; tens of runs instead of 20,000 iterations.
        """
        values = {
            "sampling": "threshold",
            "threshold": 0.1,
            "initial_score": 0.2,
            "importance": "proxy",
            "loss": "squared",
            "scale_loss": False,
            "lambda_bimodal": 0.0,
        }
        return cls.paper(**{**values, **changes})

    @classmethod
    def l2c(cls, **changes: Any) -> LearnConfig:
        """Learning-to-Cache (Ma et al., NeurIPS 2024, arXiv 2406.01733): pairs of steps, interpolated.

        Taken from there: only every second step may reuse, and only what the step before it computed in full; values
        are mixed by their scores while learning, and computed above a threshold of 0.1 after it; the squared error of
        each such step's output, all alike; an L1 norm of the scores. What differs: inputs come from runs of the
        original model, theirs from images with noise; scores move in [0, 1], theirs are logits under a sigmoid; the
        penalty is steered to the target and cells are held or computed to meet it; tens of runs instead of 50,000
        iterations. Half of the run is the least that it can cost.
        """
        values = {
            "sampling": "interpolation",
            "threshold": 0.1,
            "trajectory": "teacher",
            "alternate": True,
            "loss": "squared",
            "scale_loss": False,
            "lambda_bimodal": 0.0,
        }
        return cls.paper(**{**values, **changes})
