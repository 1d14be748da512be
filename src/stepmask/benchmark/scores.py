"""Scores of a benchmark's images as sets, for models of pictures like those of CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stepmask import reference
from stepmask.evaluation.distribution import score_images


def cifar_scores() -> Callable[[Tensor], dict[str, float]]:
    """What scores images (N, 3, H, W) by the features of the classifier that comes with the package, by name.

    The names say whose features they are: these are no FIDs.
    """
    extractor = reference.load_classifier()

    def score(images: Tensor) -> dict[str, float]:
        found = score_images(images, extractor, bootstrap=0)
        # what this classifier cannot tell lies amid real images, noise too: its precision says nothing
        return {name: one.value for name, one in found.scores.items() if not name.startswith("precision")}

    return score
