"""SADA: the sample after each step against an estimate; the sign says whether the next step is skipped."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

FIRST, LAST, OF_STEPS = 10, 47, 50
MOST = 4


@dataclass
class Sada:
    """The rule of one image, for models that predict noise (Jiang et al., ICML 2025, arXiv 2507.17135).

    Taken from the authors' code: the derivative of the sample in the time of a variance preserving process at the last
    three steps makes an estimate of the next sample (5/8, 3/4 and -3/8); where its error times the second difference of
    the derivative is negative in the mean, the next step is skipped; so are at most 4 in a row, of the steps from 10 to
    47 of 50. A skipped step has the noise of the last computation, and its image is told from the estimate.

    What differs: the noise that the derivative is made of is read off two samples, so that guidance and the order of
    its halves need not be known; for DDIM that is the guided noise. Time is the training's, where the code takes the
    number of inference steps for the training's too and so has an estimate that hardly moves; with it nearly every step
    is skipped that may be, and the most in a row is what decides. Each image decides for itself. Left out are the two
    other modes of the paper: Lagrange's interpolation of images in a late phase, which is off by default in the code,
    and pruning of tokens.

    Attributes:
        signal: (T,) factor of the image in the sample at each row.
        noise: (T,) factor of the noise.
        rates: (T,) beta at each row, for a time that goes from 0 to 1.
        most: Most steps that are skipped in a row.
    """

    signal: list[float]
    noise: list[float]
    rates: list[float]
    most: int = MOST
    _samples: list[Tensor] = field(default_factory=list, init=False)
    _derivatives: list[Tensor] = field(default_factory=list, init=False)
    _estimate: Tensor | None = field(default=None, init=False)
    _skipped: int = field(default=0, init=False)

    def computes(self, row: int, sample: Tensor) -> bool:
        """Whether the estimate does not say that this step may be skipped."""
        num_rows = len(self.signal)
        self._samples.append(sample)
        self._estimate = None
        bends = self._bends(row, sample) if row else 0.0
        first, last = (round(bound * num_rows / OF_STEPS) for bound in (FIRST, LAST))
        may = max(first, 3) <= row - 1 < last and self._estimate is not None and self._skipped < self.most
        skips = may and bends <= 0
        self._skipped = self._skipped + 1 if skips else 0
        return not skips

    def computed(self, row: int, sample: Tensor, output: Tensor) -> None:
        """Nothing is learned from outputs."""

    def correction(self, row: int, sample: Tensor) -> Tensor:
        """The held noise, as far as it is noise of the estimate and not of the sample."""
        return (sample - self._estimate) / self.noise[row]

    def _bends(self, row: int, sample: Tensor) -> float:
        """The criterion at a row, of the step that led there; notes the derivative of that step and the estimate."""
        before = self._samples[-2]
        signal, noise = self.signal[row - 1], self.noise[row - 1]
        ratio = [self.noise[at] / self.signal[at] for at in (row - 1, row)]
        gone_by = (sample / self.signal[row] - before / signal) / (ratio[1] - ratio[0])
        self._derivatives.append(0.5 * self.rates[row - 1] * (gone_by / noise - before))
        self._samples, self._derivatives = self._samples[-2:], self._derivatives[-3:]
        if len(self._derivatives) < 3:
            return 0.0
        oldest, older, newest = self._derivatives
        self._estimate = before - (0.625 * newest + 0.75 * older - 0.375 * oldest) / len(self.signal)
        return ((sample - self._estimate) * (newest - 2 * older + oldest)).mean().item()
