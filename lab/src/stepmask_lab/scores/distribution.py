"""How near a set of images is to a reference set: Fréchet and kernel distances, inception score, precision, recall.

The extractor is given; scores are called after it (``fd_cifar``), and only those on the standard Inception network
have the names that papers use (``fid``). `features` says what an extractor is, `moments` and `set_statistics` hold
the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask_lab.scores.features import Extractor, FeatureSet, FeatureStatistics, Images, name_of
from stepmask_lab.scores.moments import Moments, frechet_distance
from stepmask_lab.scores.set_statistics import covered, inception_score, kernel_distance

STANDARD_NAMES = {"fd": "fid", "sfd": "sfid"}
"""Scores that are called otherwise on the standard network."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Change:
    """A score less that of the full run, from the same noise.

    Attributes:
        value: Of all images.
        standard_error: Over the same bootstrap draws of both sets, or the same images; None without a bootstrap.
        low: Lower end of the interval of 95%.
        high: Its upper end.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Score:
    """One score and how sure it is, given the number of images.

    Attributes:
        value: The score of all images.
        standard_error: Standard deviation over bootstrap draws of the images; None without a bootstrap.
        low: Lower end of the interval of 95%, the value less 1.96 standard errors, within the score's range.
        high: Its upper end.
        num_images: Images it was computed on.
        num_reference: Images of the reference set it was computed against; None where there is none.
        real: The same score of as many images out of the reference set, which is what a perfect sampler gets: a
            Fréchet distance is above zero for few images, whatever they are. None where it is not known.
        change: Against the full run; None where none was given.
        drawn: The score of each bootstrap draw.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    num_images: int
    num_reference: int | None
    real: float | None = None
    change: Change | None = None
    drawn: tuple[float, ...] = field(default=(), repr=False)

    @classmethod
    def of_images(cls, values: Tensor, full: Tensor | None = None) -> Score:
        """The mean of one value per image (N,), and its change against those of the full run."""
        values = values.double()
        score = _score(values.mean().item(), (), len(values), None, error=_error_of_mean(values))
        if full is None:
            return score
        lost = values - full.double()
        return replace(score, change=Change(*_interval(lost.mean().item(), _error_of_mean(lost))))

    def against(self, full: Score) -> Score:
        """The same score with its change; both were drawn with one seed and have as many images."""
        if len(self.drawn) != len(full.drawn) or self.num_images != full.num_images:
            raise StepMaskError("only scores of as many images and bootstrap draws can be compared in pairs")
        error = _spread([one - other for one, other in zip(self.drawn, full.drawn, strict=True)])
        return replace(self, change=Change(*_interval(self.value - full.value, error)))

    def to_dict(self) -> dict[str, Any]:
        """The fields but the draws, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "drawn"}


@dataclass(frozen=True, kw_only=True)
class DistributionScores:
    """Scores of a set of images against a reference set.

    Attributes:
        extractor: Name of what the features come from.
        reference: The reference set in words.
        num_images: N.
        num_reference: Images of the reference set.
        bootstrap: Number of draws behind the intervals; 0 is none.
        seed: Of the draws.
        scores: By name, as ``fd_cifar`` or ``fid``. The lower the better: fd, sfd, kid; the higher: the others.
    """

    extractor: str
    reference: str
    num_images: int
    num_reference: int
    bootstrap: int
    seed: int
    scores: dict[str, Score]

    def __getitem__(self, name: str) -> Score:
        if name not in self.scores:
            raise StepMaskError(f"no score {name!r}; there are {', '.join(self.scores)}")
        return self.scores[name]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        scores = {name: score.to_dict() for name, score in self.scores.items()}
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "scores": scores}

    def __str__(self) -> str:
        """One line per score."""
        width = max(map(len, self.scores))
        lines = [f"{self.num_images:,} images against {self.num_reference:,} of {self.reference}"]
        for name, score in self.scores.items():
            line = f"  {name:<{width}}  {score.value:>9.4g}"
            if score.standard_error is not None:
                line += f"  ± {score.standard_error:<8.2g} {score.low:.4g} to {score.high:.4g}"
            if score.real is not None:
                line += f"  (as many real images: {score.real:.4g})"
            lines.append(line.rstrip())
        if self.bootstrap:
            lines.append(f"  ± standard error and {CONFIDENCE:.0%} interval over {self.bootstrap} bootstrap draws")
        return "\n".join(lines)


def score_images(
    images: Images,
    extractor: Extractor,
    reference: FeatureStatistics | None = None,
    *,
    bootstrap: int = 100,
    seed: int = 0,
    neighbours: int = 3,
    splits: int = 1,
    batch_size: int = 250,
) -> DistributionScores:
    """Score a set of images against a reference set.

    Fréchet distances and inception scores depend on the number of images: compare like with like. Intervals say how
    much other images of the same kind would change the score, the reference set and, for precision and recall, the
    manifolds being what they are.

    Args:
        images: (N, 3, H, W) in [0, 1] or uint8, or an iterator of batches, of which only features are kept. At least
            512 for numbers to show; more than the number of features for a covariance of full rank.
        extractor: As ``stepmask_lab.reference.load_classifier()`` or ``standard_features()``.
        reference: Statistics of the reference set under the same extractor; by default those that the extractor
            brings along.
        bootstrap: Number of draws behind the intervals; 0 for none. Features of length 2048 take seconds per draw.
        seed: Of the draws.
        neighbours: For precision and recall, which take as many images of both sets.
        splits: For the inception score; papers take 10 of 50,000 images.
        batch_size: Images per call of the extractor.

    Raises:
        StepMaskError: Images or features of another form, a reference of another extractor, or none.
    """
    if bootstrap < 0 or bootstrap == 1:
        raise StepMaskError(f"bootstrap must be 0 or at least 2 draws, got {bootstrap}")
    if reference is None:
        if getattr(extractor, "statistics", None) is None:
            raise StepMaskError(
                "this extractor brings no reference set along: give reference=FeatureStatistics.of(images, extractor)"
            )
        reference = FeatureStatistics.load(extractor.statistics)
    name = name_of(extractor)
    if reference.extractor != name:
        raise StepMaskError(f"the reference was made with {reference.extractor!r}, not {name!r}: use one extractor")
    found = FeatureSet.of(images, extractor, batch_size)
    draws = torch.randint(len(found), (bootstrap, len(found)), generator=torch.Generator().manual_seed(seed))
    scores = _scores(found, reference, draws, neighbours, splits)
    standard = getattr(extractor, "standard", False)
    return DistributionScores(
        extractor=name,
        reference=reference.source,
        num_images=len(found),
        num_reference=reference.num_images,
        bootstrap=bootstrap,
        seed=seed,
        scores={STANDARD_NAMES.get(key, key) if standard else f"{key}_{name}": score for key, score in scores.items()},
    )


def compare_sets(images: Images, others: Images, extractor: Extractor, **options: Any) -> DistributionScores:
    """Score one set of images against another, as those of a masked run against those of the full run.

    Args:
        images: The set that is judged.
        others: The set it should be like, of any size; features of 5000 of them at most are kept.
        extractor: Anything that `score_images` takes.
        **options: As of `score_images`.
    """
    reference = FeatureStatistics.of(
        others, extractor, source="the other set", batch_size=options.get("batch_size", 250)
    )
    return score_images(images, extractor, reference, **options)


def _scores(
    found: FeatureSet, reference: FeatureStatistics, draws: Tensor, neighbours: int, splits: int
) -> dict[str, Score]:
    """Every score that extractor and reference allow, by its short name."""
    scores = {"fd": replace(_frechet(found.features, reference.features, draws), real=_real(len(found), reference))}
    if found.spatial is not None and reference.spatial is not None:
        scores["sfd"] = _frechet(found.spatial, reference.spatial, draws)
    if found.probabilities is not None:
        sure = found.probabilities
        values = _over(draws, lambda rows: inception_score(sure[rows], splits))
        scores["is"] = _score(inception_score(sure, splits), values, len(sure), None, 1.0, float(sure.shape[1]))
    sample = reference.sample
    if sample is None:
        return scores
    count = min(len(found), len(sample))
    if count > neighbours:
        # both in random order, as neither may be sorted by class
        real, made = (_shuffled(values)[:count] for values in (sample, found.features))
        for key, points, manifold in (("precision", made, real), ("recall", real, made)):
            inside = covered(points, manifold, neighbours).double()
            values = [inside[rows * count // len(found)].mean().item() for rows in draws[:, :count]]
            scores[key] = _score(inside.mean().item(), values, count, count, 0.0, 1.0)
    if count > 1:
        counts = torch.zeros(draws.shape).scatter_add_(1, draws, torch.ones(draws.shape))
        weights = torch.cat([torch.ones(1, len(found)), counts])
        value, *values = kernel_distance(found.features, sample, weights).tolist()
        scores["kid"] = _score(value, values, len(found), len(sample))
    return scores


def _frechet(values: Tensor, reference: Moments, draws: Tensor) -> Score:
    drawn = _over(draws, lambda rows: frechet_distance(Moments.of(values[rows]), reference))
    value = frechet_distance(Moments.of(values), reference)
    return _score(value, drawn, len(values), reference.count, 0.0)


def _real(count: int, reference: FeatureStatistics) -> float | None:
    """Fréchet distance of some of the reference set to the whole, where they are few of it."""
    if reference.sample is None or len(reference.sample) < count or reference.num_images < 5 * count:
        return None
    return frechet_distance(Moments.of(_shuffled(reference.sample)[:count]), reference.features)


def _over(draws: Tensor, statistic: Callable[[Tensor], float]) -> list[float]:
    return [statistic(rows) for rows in draws]


def _score(
    value: float,
    drawn: Sequence[float],
    num_images: int,
    num_reference: int | None,
    least: float = float("-inf"),
    most: float = float("inf"),
    error: float | None = None,
) -> Score:
    """With a normal interval: draws repeat images, which shifts statistics that have a bias; their spread stays."""
    numbers = _interval(value, _spread(drawn) if error is None else error, least, most)
    return Score(*numbers, num_images, num_reference, drawn=tuple(drawn))


def _spread(drawn: Sequence[float]) -> float | None:
    return torch.tensor(drawn, dtype=torch.float64).std().item() if len(drawn) else None


def _error_of_mean(values: Tensor) -> float | None:
    return values.std().item() / len(values) ** 0.5 if len(values) > 1 else None


def _interval(
    value: float, error: float | None, least: float = float("-inf"), most: float = float("inf")
) -> tuple[float, float | None, float | None, float | None]:
    """Value, standard error, and both ends of the interval."""
    if error is None:
        return value, None, None, None
    reach = error * NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return value, error, max(least, value - reach), min(most, value + reach)


def _shuffled(values: Tensor) -> Tensor:
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
