"""Scores of sets of images, and distances on learned features: Fréchet, kernel, LPIPS, CLIP. They know no masks."""

from stepmask_lab.scores.distribution import DistributionScores, Score, compare_sets, score_images
from stepmask_lab.scores.features import FeatureStatistics
from stepmask_lab.scores.metrics import Metrics, load_metrics
from stepmask_lab.scores.standard import standard_features

__all__ = [
    "DistributionScores",
    "FeatureStatistics",
    "Metrics",
    "Score",
    "compare_sets",
    "load_metrics",
    "score_images",
    "standard_features",
]
