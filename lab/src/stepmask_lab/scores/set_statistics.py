"""Statistics of sets of features beyond moments: inception score, kernel distance, precision and recall.

Tensors in, numbers out; knows neither images nor extractors. Where a set is repeated in part (a bootstrap), the
multiplicities are given as weights, so that an image is never compared with its own copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepmask.errors import StepMaskError

CHUNK = 1000
"""Rows of a matrix of distances or kernel values that are held at once."""


def inception_score(probabilities: Tensor, splits: int = 1) -> float:
    """The exponential of the mutual information of image and class (Salimans et al. 2016), between 1 and C.

    Args:
        probabilities: (N, C), what a classifier says of each image.
        splits: The score is computed on so many parts, in the order given, and averaged. Papers take 10 of 50,000
            images; small parts lower the score.
    """
    if not 1 <= splits <= len(probabilities):
        raise StepMaskError(f"splits must be between 1 and the number of images, {len(probabilities)}; got {splits}")
    scores = []
    for part in probabilities.double().tensor_split(splits):
        marginal = torch.special.entr(part.mean(0)).sum()
        scores.append((marginal - torch.special.entr(part).sum(1).mean()).exp())
    return torch.stack(scores).mean().item()


def kernel_distance(features: Tensor, reference: Tensor, weights: Tensor | None = None) -> Tensor:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased (Binkowski et al. 2018: KID).

    Unbiased: its expectation does not depend on the number of images, and it may be negative.

    Args:
        features: (N, D).
        reference: (M, D).
        weights: (B, N) multiplicities; a result for each row. By default one row of ones.

    Returns:
        (B,) float64.
    """
    _check(features, reference, least=2)
    x, y = features.double(), reference.double()
    w = torch.ones(1, len(x), dtype=x.dtype) if weights is None else weights.double()
    ones = torch.ones(1, len(y), dtype=y.dtype)
    total = w.sum(1)
    cross = _kernel_sums(x, y, w, ones.expand(len(w), -1)) / (total * len(y))
    return _within(x, w) + _within(y, ones) - 2 * cross


def kernel_distance_of_subsets(
    features: Tensor, reference: Tensor, subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over random subsets, the form in which papers give it.

    Args:
        features: (N, D).
        reference: (M, D).
        subset_size: Of both; at most N and M.
        num_subsets: How many.
        seed: Of the draws.
    """
    if not 2 <= subset_size <= min(len(features), len(reference)):
        raise StepMaskError(
            f"subset_size must be between 2 and the size of the smaller set, {min(len(features), len(reference))}; "
            f"got {subset_size}"
        )
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(num_subsets):
        x, y = (v[torch.randperm(len(v), generator=generator)[:subset_size]] for v in (features, reference))
        values.append(kernel_distance(x, y))
    values = torch.cat(values)
    return values.mean().item(), values.std(correction=0).item()


def covered(points: Tensor, manifold: Tensor, k: int = 3) -> Tensor:
    """Which points lie within reach of a set: no farther from one of its members than that one's k-th neighbour.

    Its mean is precision for generated points and the manifold of real ones, and recall the other way round
    (Kynkäänniemi et al. 2019), with as many points as members.

    Args:
        points: (N, D).
        manifold: (M, D), M > k.
        k: Neighbours, the member itself not counted.

    Returns:
        (N,) bool.
    """
    _check(points, manifold, least=1)
    if not 1 <= k < len(manifold):
        raise StepMaskError(f"k must be between 1 and one less than the {len(manifold)} images of the set, got {k}")
    centre = manifold.double().mean(0)
    points, manifold = points.double() - centre, manifold.double() - centre
    # distances come from a matrix product, which rounds that of two equal points up to about 1e-8 of their norms
    slack = 1e-7 * max(points.norm(dim=1).max().item(), manifold.norm(dim=1).max().item())
    radii = torch.cat([torch.cdist(rows, manifold).kthvalue(k + 1, dim=1).values for rows in manifold.split(CHUNK)])
    return torch.cat([(torch.cdist(rows, manifold) <= radii + slack).any(1) for rows in points.split(CHUNK)])


def _kernel_sums(x: Tensor, y: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """Sum over i and j of w_i v_j k(x_i, y_j), for each row of the weights."""
    sums = torch.zeros(len(w), dtype=x.dtype)
    for rows, weights in zip(x.split(CHUNK), w.split(CHUNK, dim=1), strict=True):
        kernel = (rows @ y.T / x.shape[1] + 1) ** 3
        sums += ((weights @ kernel) * v).sum(1)
    return sums


def _within(x: Tensor, w: Tensor) -> Tensor:
    """Mean of the kernel over pairs of different members."""
    own = (x.square().sum(1) / x.shape[1] + 1) ** 3
    pairs = w.sum(1).square() - w.square().sum(1)
    return (_kernel_sums(x, x, w, w) - w.square() @ own) / pairs


def _check(features: Tensor, reference: Tensor, least: int) -> None:
    if features.dim() != 2 or reference.dim() != 2 or features.shape[1] != reference.shape[1]:
        raise StepMaskError(
            f"features must have the shapes (N, D) and (M, D), got {tuple(features.shape)} and "
            f"{tuple(reference.shape)}: use one extractor for both"
        )
    if min(len(features), len(reference)) < least:
        raise StepMaskError(f"at least {least} images are needed, got {len(features)} and {len(reference)}")
