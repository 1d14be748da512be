"""HarmoniCa: its options."""

from __future__ import annotations

from dataclasses import dataclass

from stepmask.learning.configuration import option
from stepmask.learning.paper.config import ScoreConfiguration


@dataclass(frozen=True, kw_only=True)
class HarmoniCa(ScoreConfiguration):
    """HarmoniCa in the frame of the paper's learner."""

    initial_score: float = option(0.2, "Where all scores begin.", low=0.0, high=1.0)
    threshold: float = option(0.1, "A cell whose score exceeds it computes.", low=0.0, high=0.99)
