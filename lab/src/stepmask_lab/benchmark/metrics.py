"""Metrics of a benchmark's images by the names that the command line takes: the standard ones, and ours."""

from __future__ import annotations

from pathlib import Path

from stepmask.errors import StepMaskError
from stepmask_lab import reference
from stepmask_lab.scores import Metrics, load_metrics
from stepmask_lab.scores.metrics import NAMES, SetScores

CIFAR = "cifar"
BOOTSTRAP = 100
"""Draws behind the intervals of scores of sets."""


def metrics_by_name(names: str, real: Path | None = None) -> Metrics:
    """What a comma-separated list asks for.

    Args:
        names: ``cifar`` scores sets by the features of the classifier that comes with the package, for images like
            CIFAR-10; its scores are no FIDs and are not called so. The others are those of `load_metrics`.
        real: File with statistics of real images under Inception.

    Raises:
        StepMaskError: There is no metric of a name, or its packages or weights are missing.
    """
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    unknown = sorted(set(wanted) - {*NAMES, CIFAR})
    if unknown or not wanted:
        raise StepMaskError(f"no metric {(unknown or [names])[0]!r}; there are {', '.join((*NAMES, CIFAR))}")
    return load_metrics(
        [name for name in wanted if name != CIFAR],
        real,
        bootstrap=BOOTSTRAP,
        more=[cifar_scores()] if CIFAR in wanted else [],
    )


def cifar_scores() -> SetScores:
    """Scores on the features of the classifier that comes with the package, against CIFAR-10's train split."""
    # what this classifier cannot tell lies amid real images, noise too: its precision says nothing
    return SetScores(reference.load_classifier(), leave_out=("precision",), bootstrap=BOOTSTRAP)
