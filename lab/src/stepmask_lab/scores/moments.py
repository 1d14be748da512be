"""Mean and covariance of features, batch by batch, and the Fréchet distance between two of them.

Everything is float64. Knows neither images nor where features come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stepmask.errors import StepMaskError


@dataclass(frozen=True, eq=False)
class Moments:
    """First two moments of vectors of length D; of two parts, `merge` makes those of the whole.

    Attributes:
        count: Number of vectors.
        mean: (D,) float64.
        scatter: (D, D) float64, the sum of outer products around the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Moments of values (N, D)."""
        values = values.double()
        mean = values.mean(0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    @classmethod
    def from_covariance(cls, count: int, mean: Tensor, covariance: Tensor) -> Moments:
        """Moments that were computed elsewhere; the covariance is the unbiased one."""
        return cls(count, mean.double(), covariance.double() * (count - 1))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan, Golub and LeVeque 1979)."""
        if self.mean.shape != other.mean.shape:
            raise StepMaskError(f"features have {len(self.mean)} and {len(other.mean)} values: use one extractor")
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = torch.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """(D, D), divided by the count less one.

        Raises:
            StepMaskError: There are fewer than two vectors.
        """
        if self.count < 2:
            raise StepMaskError(f"a covariance needs at least 2 images, got {self.count}")
        return self.scatter / (self.count - 1)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance; eigenvalues that rounding made negative count as zero."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(one: Moments, other: Moments) -> float:
    r"""Squared Fréchet distance of two Gaussians (Dowson and Landau 1982), what FID is of Inception's features.

    .. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}(C_1) + \mathrm{tr}(C_2) - 2\,\mathrm{tr}\,(C_1 C_2)^{1/2}

    The last trace is the sum of the singular values of :math:`C_1^{1/2} C_2^{1/2}`, which exists for singular
    covariances too (fewer images than features, dead features) and needs no complex numbers.
    """
    if one.mean.shape != other.mean.shape:
        raise StepMaskError(f"features have {len(one.mean)} and {len(other.mean)} values: use one extractor")
    between = (one.mean - other.mean).square().sum()
    shared = torch.linalg.svdvals(one.root @ other.root).sum()
    return max(0.0, (between + one.covariance.trace() + other.covariance.trace() - 2 * shared).item())
