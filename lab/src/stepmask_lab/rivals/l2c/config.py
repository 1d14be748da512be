"""L2C: the options of Learning-to-Cache."""

from __future__ import annotations

from dataclasses import dataclass

from stepmask.learning.configuration import option
from stepmask.learning.paper.config import ScoreConfiguration


@dataclass(frozen=True, kw_only=True)
class L2C(ScoreConfiguration):
    """Learning-to-Cache in the frame of the paper's learner."""

    threshold: float = option(0.1, "A cell whose score exceeds it computes.", low=0.0, high=0.99)
