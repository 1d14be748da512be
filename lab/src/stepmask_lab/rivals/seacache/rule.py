"""SeaCache: changes of the sample count only as far as a Wiener filter says that they are image, not noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

POWER = 2.0
"""How fast the spectrum of images falls with the frequency."""


@dataclass
class SeaCache:
    """The rule of one image (Chung et al., CVPR 2026, arXiv 2602.18993).

    Taken from the paper and from its port in diffusers: the sample is filtered along each axis of space by the best
    linear estimate of an image in noise at the step's level, for images whose spectrum is a power of the frequency; the
    filter's gain is scaled to mean 1; the relative L1 change from step to step is added up until it reaches a
    threshold; first and last step compute. What differs: the sample itself is filtered, as in the port, not what the
    first block makes of it; what is reused is the output of the denoiser, not what its blocks add to what enters them;
    levels are those of any scheduler, theirs of flows; each image decides for itself.

    Attributes:
        signal: (T,) factor of the image in the sample at each row.
        noise: (T,) factor of the noise.
        threshold: The sum at which the denoiser is called.
        power: Of the spectrum; 2 for images, 3 for videos.
    """

    signal: list[float]
    noise: list[float]
    threshold: float
    power: float = POWER
    _added: float = field(default=0.0, init=False)
    _before: Tensor | None = field(default=None, init=False)

    def computes(self, row: int, sample: Tensor) -> bool:
        """Whether the sum has reached the threshold; it begins anew then."""
        now = filtered(sample / (self.signal[row] + self.noise[row]), self.signal[row], self.noise[row], self.power)
        before, self._before = self._before, now
        if row in (0, len(self.signal) - 1):
            self._added = 0.0
            return True
        self._added += ((now - before).abs().mean() / before.abs().mean().clamp_min(1e-16)).item()
        if self._added < self.threshold:
            return False
        self._added = 0.0
        return True

    def computed(self, row: int, sample: Tensor, output: Tensor) -> None:
        """Nothing is learned from outputs."""

    def correction(self, row: int, sample: Tensor) -> None:
        """The output is reused as it is."""


def filtered(sample: Tensor, signal: float, noise: float, power: float = POWER) -> Tensor:
    """A sample (C, ...) without what is noise in it, as far as a linear filter along each axis of space can tell.

    Args:
        sample: With factors of image and noise that add up to 1.
        signal: Factor of the image, up to a common factor with that of the noise.
        noise: Factor of the noise.
        power: The image's power at frequency f is ``f ** -power``.
    """
    share = min(max(noise / (signal + noise), 1e-6), 1 - 1e-6)
    axes = list(range(1, sample.dim()))
    gain = torch.ones((), device=sample.device)
    for axis in axes:
        frequency = torch.fft.fftfreq(sample.shape[axis], device=sample.device).abs()
        strength = 1 / (frequency**power + 1e-16)
        along = (1 - share) * strength / ((1 - share) ** 2 * strength + share**2 + 1e-16)
        gain = gain * along.reshape([-1 if other == axis else 1 for other in axes])
    spectrum = torch.fft.fftn(sample.float(), dim=axes) * (gain / gain.mean())
    return torch.fft.ifftn(spectrum, dim=axes).real
