"""Metrics by name, of what a masked run made: distances to the full run's images, matches with prompts, scores of sets.

PSNR and SSIM need no network and are in every `Evaluation`; these are asked for. Networks are loaded, and what is
missing is said, before anything is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.inspection.pipeline_call import PipelineCall
from stepmask_lab.scores.distribution import DistributionScores, Score, score_images
from stepmask_lab.scores.features import Extractor, FeatureStatistics
from stepmask_lab.scores.perceptual import (
    Distance,
    clip_network,
    clip_score_per_image,
    lpips_network,
    lpips_per_image,
)
from stepmask_lab.scores.standard import standard_features

OF_INCEPTION = ("fid", "sfid", "is", "kid", "precision", "recall")
NAMES = ("lpips", "clip", *OF_INCEPTION)


@dataclass
class SetScores:
    """Scores of a set of images, and their change against the full run over the same bootstrap draws.

    Attributes:
        extractor: Anything that `score_images` takes.
        reference: Statistics of real images; None for those that the extractor brings along, or else the images of
            the full run.
        names: Which of the scores; all by default.
        leave_out: Beginnings of the names of scores that say nothing on these features.
        bootstrap: Draws behind the intervals.
    """

    extractor: Extractor
    reference: FeatureStatistics | None = None
    names: Sequence[str] | None = None
    leave_out: tuple[str, ...] = ()
    bootstrap: int = 100
    _full: tuple[Tensor, DistributionScores] | None = field(default=None, init=False, repr=False)

    def __call__(self, images: Tensor, full: Tensor, prompts: Sequence[str] | None = None) -> dict[str, Score]:
        """Score images (N, 3, H, W) in [0, 1] beside those of the full run."""
        reference = self.reference
        if reference is None and getattr(self.extractor, "statistics", None) is None:
            reference = FeatureStatistics.of(full, self.extractor, source="the full run's images")
            found = score_images(images, self.extractor, reference, bootstrap=self.bootstrap)
            return self._chosen(found.scores)
        if self._full is None or self._full[0] is not full:
            self._full = full, score_images(full, self.extractor, reference, bootstrap=self.bootstrap)
        of_full = self._full[1]
        found = score_images(images, self.extractor, reference, bootstrap=self.bootstrap)
        return self._chosen({name: score.against(of_full[name]) for name, score in found.scores.items()})

    def _chosen(self, scores: dict[str, Score]) -> dict[str, Score]:
        names = scores if self.names is None else [name for name in self.names if name in scores]
        return {name: scores[name] for name in names if not name.startswith(self.leave_out)}


@dataclass
class Metrics:
    """What is computed of the images of each masked run.

    Attributes:
        lpips: A network for LPIPS, or None.
        clip: Model and processor for the CLIP score, or None.
        sets: Scores of sets.
    """

    lpips: Distance | None = None
    clip: tuple[Any, Any] | None = None
    sets: tuple[SetScores, ...] = ()

    @property
    def bootstrap(self) -> int:
        """Draws behind the intervals of scores of sets; their seed is 0."""
        return max((one.bootstrap for one in self.sets), default=0)

    def check(self, pipe: Any) -> None:
        """Raise what would be raised after sampling otherwise.

        Raises:
            StepMaskError: The pipeline takes no prompts, which the CLIP score compares images with.
        """
        if self.clip is not None and not PipelineCall(pipe).takes("prompt"):
            raise StepMaskError(
                f"the CLIP score compares images with prompts, and {type(pipe).__name__} takes none: leave clip out"
            )

    def __call__(self, images: Tensor, full: Tensor, prompts: Sequence[str] | None = None) -> dict[str, Score]:
        """All scores by name.

        Args:
            images: (N, 3, H, W) in [0, 1], of the masked run.
            full: Those of the full run from the same noise.
            prompts: One per image, where there are any.
        """
        scores = {}
        if self.lpips is not None:
            scores["lpips"] = Score.of_images(lpips_per_image(images, full, self.lpips))
        if self.clip is not None:
            values, of_full = (clip_score_per_image(one, prompts or (), *self.clip) for one in (images, full))
            scores["clip"] = Score.of_images(values, of_full)
        for score in self.sets:
            scores |= score(images, full)
        return scores


def load_metrics(
    names: Iterable[str],
    reference: FeatureStatistics | str | Path | None = None,
    *,
    bootstrap: int = 100,
    more: Sequence[SetScores] = (),
) -> Metrics:
    """Metrics on their standard networks, by the names that papers use.

    Args:
        names: Of ``lpips``, ``clip``, ``fid``, ``sfid``, ``is``, ``kid``, ``precision``, ``recall``.
        reference: Statistics of real images under Inception, or their file, as `FeatureStatistics.load` reads it; by
            default the images of the full run are the reference.
        bootstrap: Draws behind the intervals of scores of sets.
        more: Scores of sets on other features.

    Raises:
        StepMaskError: There is no metric of a name, or its packages or weights are missing.
    """
    names = list(names)
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise StepMaskError(f"no metric {unknown[0]!r}; there are {', '.join(NAMES)}")
    asked = [name for name in OF_INCEPTION if name in names]
    statistics = FeatureStatistics.load(reference) if isinstance(reference, str | Path) else reference
    if statistics is not None and not asked:
        raise StepMaskError(f"a reference set is for {', '.join(OF_INCEPTION)}: ask for one of them, or leave it out")
    sets = (SetScores(standard_features(), statistics, asked, bootstrap=bootstrap),) if asked else ()
    return Metrics(
        lpips=lpips_network() if "lpips" in names else None,
        clip=clip_network() if "clip" in names else None,
        sets=(*sets, *more),
    )
