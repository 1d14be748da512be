"""From scores to what a site hands out while learning: draws, mixed values, and how they depend on the score.

A draw is one weight per image and site: 0 hands out the cached value, 1 the fresh one. The derivative of a mixed value
by its weight is ``fresh - cached`` for every relaxation, so no score needs to take part in autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stepmask.learning.paper.config import Sampling


class Draw(NamedTuple):
    """Weights of one row for N images and B sites."""

    weight: Tensor
    """(N, B) in [0, 1]; 0 or 1 under random sampling."""
    slope: Tensor
    """(N, B) derivative of the weight by the score; 1 is the straight-through estimate."""
    refresh: Tensor
    """(N, B) bool, whether the cache takes the fresh value."""


def draw(scores: Tensor, num_images: int, sampling: Sampling, temperature: float, generator: torch.Generator) -> Draw:
    """Draw the weights of one row.

    Args:
        scores: (B,) in [0, 1].
        num_images: N.
        sampling: How, as `Paper` has it.
        temperature: The temperature of the Gumbel-Softmax.
        generator: Source of randomness, on the CPU.
    """
    scores = scores.expand(num_images, -1)
    if sampling == "interpolation":
        return interpolated(scores, 0.5)
    uniform = torch.rand(scores.shape, generator=generator)
    if sampling == "random":
        weight = (uniform < scores).float()
        return Draw(weight, torch.ones_like(scores), weight.bool())
    clamped = scores.clamp(1e-4, 1 - 1e-4)
    logits = (torch.logit(clamped) + torch.logit(uniform.clamp(1e-6, 1 - 1e-6))) / temperature
    weight = torch.sigmoid(logits)
    slope = weight * (1 - weight) / (temperature * clamped * (1 - clamped))
    return Draw(weight, slope, weight > 0.5)


def interpolated(scores: Tensor, threshold: float) -> Draw:
    """The scores themselves as weights: Eq. 4 taken literally.

    Args:
        scores: (N, B) in [0, 1].
        threshold: Above it the cache takes the fresh value.
    """
    return Draw(scores, torch.ones_like(scores), scores > threshold)


def per_image(values: Tensor, feature: Tensor, copies: int = 1) -> Tensor:
    """Spread one value per image over a feature.

    With batched guidance a feature holds every image twice, [conditional, unconditional] or the other way round: both
    halves belong to the images in the same order. Models of video may fold frames or places of an image into its batch.

    Args:
        values: (N,).
        feature: (k N f, ...), f folded into each.
        copies: k.

    Returns:
        (k N f, 1, ...), on the feature's device.
    """
    folded = feature.shape[0] // (copies * len(values))
    spread = values.to(feature.device).repeat(copies).repeat_interleave(folded)
    return spread.view(-1, *[1] * (feature.dim() - 1))


def mix(weight: Tensor, fresh: Tensor, cached: Tensor) -> Tensor:
    """``weight * fresh + (1 - weight) * cached``, exact at 0 and 1 also for inf, NaN and -0.

    Args:
        weight: As made by `per_image`.
        fresh: The computed value.
        cached: The held value.
    """
    hard = torch.where(weight == 1, fresh, cached)
    soft = (weight > 0) & (weight < 1)
    if not soft.any():
        return hard
    return torch.where(soft, torch.lerp(cached, fresh, weight.to(fresh.dtype)), hard)
