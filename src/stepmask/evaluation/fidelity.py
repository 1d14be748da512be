"""How close images are to the full run's: PSNR and SSIM, image by image.

Knows neither models nor masks: two batches of pictures go in. The same noise under both runs is what makes the
comparison mean something; `stepmask.evaluation` sees to that.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from stepmask.errors import StepMaskError

PSNR_CAP = 100.0
"""dB. Identical images have infinite PSNR; every value above the cap is set to it, so that means stay finite."""

SSIM_WINDOW = 11
"""Pixels. Smaller images have no SSIM."""

SSIM_CHANNELS = 12
"""At most so many are compared at once."""


@dataclass(frozen=True)
class Spread:
    """Summarises one value per image."""

    mean: float
    min: float
    standard_error: float
    """Of the mean: sample standard deviation over the root of the number of images; 0 for one image."""

    @classmethod
    def of(cls, values: Sequence[float] | Tensor) -> Spread:
        """Summarise one value per image."""
        values = torch.as_tensor(values, dtype=torch.float64)
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return cls(values.mean().item(), values.min().item(), error)

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a dictionary."""
        return asdict(self)


def psnr_per_image(images: Tensor, reference: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, at most `PSNR_CAP`.

    Args:
        images: (N, C, H, W) in [0, 1], or videos (N, frames, C, H, W).
        reference: The same shape; what the images should have been.

    Returns:
        (N,) float32.
    """
    images, reference = _checked(images, reference)
    square = (images - reference).flatten(1).square().mean(1)
    return (-10 * square.log10()).clamp(max=PSNR_CAP)


def ssim_per_image(images: Tensor, reference: Tensor) -> Tensor | None:
    """Return the structural similarity of each image (Wang et al. 2004, Gaussian window of 11 pixels, sigma 1.5).

    The mean over all pixels, as torchmetrics has it: beyond the border the image is reflected. Others leave its 5
    pixels out, which on small images gives other values.

    Args:
        images: (N, C, H, W) in [0, 1], or videos (N, frames, C, H, W).
        reference: The same shape.

    Returns:
        (N,) float32 in [-1, 1], or None where there is none; `why_no_ssim` says why.
    """
    images, reference = _checked(images, reference)
    if why_no_ssim(images) is not None:
        return None
    # one image, or a few frames, at a time: the measure takes dozens of times their memory
    return torch.stack([_ssim(*pair) for pair in zip(images, reference, strict=True)])


def why_no_ssim(images: Tensor) -> str | None:
    """Say why images (..., H, W) have no structural similarity; return None where they have one."""
    if min(images.shape[-2:]) < SSIM_WINDOW:
        return f"the images are smaller than {SSIM_WINDOW} pixels"
    if importlib.util.find_spec("torchmetrics") is None:
        return "needs torchmetrics: pip install 'stepmask[metrics]'"
    return None


def _ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Mean over channels (C, H, W), each of which has a value of its own."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    pairs = zip(image.split(SSIM_CHANNELS), reference.split(SSIM_CHANNELS), strict=True)
    sums = [ssim(one[None], other[None], data_range=1.0) * len(one) for one, other in pairs]
    return torch.stack(sums).sum() / len(image)


def _checked(images: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (N, C, H, W); the frames of a video count as channels, over which both measures take the mean."""
    if images.shape != reference.shape or images.dim() not in (4, 5):
        raise StepMaskError(
            "images to compare must both have the shape (N, C, H, W), videos (N, frames, C, H, W); got "
            f"{tuple(images.shape)} and {tuple(reference.shape)}: make both with the same seeds and pipeline"
        )
    if not (images.isfinite().all() and reference.isfinite().all()):
        raise StepMaskError("there are images with NaN or infinite pixels: was the run made in float16? Try bfloat16")
    return (images.flatten(1, 2), reference.flatten(1, 2)) if images.dim() == 5 else (images, reference)
