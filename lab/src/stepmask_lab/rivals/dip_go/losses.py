"""How far the final image is from the full run's, differentiable."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from stepmask.errors import StepMaskError
from stepmask_lab.rivals.dip_go.config import Consistency

WINDOW = 7
"""Width of the windows of structural similarity; smaller images are one window."""


def consistency_loss(images: Tensor, full: Tensor, kind: Consistency) -> Tensor:
    """0 where both are the same.

    Args:
        images: (N, ...) of the gated run.
        full: (N, ...) of the full run from the same noise.
        kind: See `DipGo`.
    """
    if kind == "squared":
        return (images - full).square().mean() / full.square().mean().clamp_min(1e-12)
    return 1 - ssim(images, full)


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004) over uniform windows.

    Args:
        images: (N, C, H, W).
        reference: (N, C, H, W); its largest difference is taken for the range of values, as latents have no other.
    """
    if images.dim() != 4:
        raise StepMaskError(
            f"structural similarity needs images of the shape (N, C, H, W), the pipeline made {tuple(images.shape)}: "
            'take consistency="squared"'
        )
    width = min(WINDOW, *images.shape[-2:])
    span = (reference.max() - reference.min()).clamp_min(1e-6)
    stabiliser, other = (0.01 * span) ** 2, (0.03 * span) ** 2

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, width, stride=1)

    mean_x, mean_y = mean(images), mean(reference)
    variance_x, variance_y = mean(images**2) - mean_x**2, mean(reference**2) - mean_y**2
    covariance = mean(images * reference) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + stabiliser) * (2 * covariance + other)
    return (similar / ((mean_x**2 + mean_y**2 + stabiliser) * (variance_x + variance_y + other))).mean()
