"""SADA: the sample after each step against an estimate; the sign says whether the next step is skipped."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

FIRST, LATE, LAST, OF_STEPS = 10, 24, 47, 50
MOST, TERMS = 4, 4


@dataclass
class Sada:
    """The rule of one image, for models that predict noise (Jiang et al., ICML 2025, arXiv 2507.17135).

    Taken from the authors' code: the derivative of the sample in the time of a variance preserving process at the last
    three steps makes an estimate of the next sample (5/8, 3/4 and -3/8); where its error times the second difference of
    the derivative is negative in the mean, the next step is skipped; so are at most 4 in a row, of the steps from 10 to
    47 of 50. A skipped step has the noise of the last computation, and its image is told from the estimate. Where
    `every` is given, one of so many steps computes from step 24 of 50 on, and the others have the image that Lagrange's
    polynomial through four images at that interval goes through.

    What differs: the noise that the derivative is made of is read off two samples, so that guidance and the order of
    its halves need not be known; for DDIM that is the guided noise. Time is the training's, where the code takes the
    number of inference steps for the training's too and so has an estimate that hardly moves; with it nearly every step
    is skipped that may be, and the most in a row is what decides. Each image decides for itself. Left out is the
    pruning of tokens, which their demonstrations for SDXL and FLUX switch off too.

    Attributes:
        signal: (T,) factor of the image in the sample at each row.
        noise: (T,) factor of the noise.
        rates: (T,) beta at each row, for a time that goes from 0 to 1.
        most: Most steps that are skipped in a row.
        every: Interval of computations in the late phase; None for no such phase.
    """

    signal: list[float]
    noise: list[float]
    rates: list[float]
    most: int = MOST
    every: int | None = None
    _samples: list[Tensor] = field(default_factory=list, init=False)
    _derivatives: list[Tensor] = field(default_factory=list, init=False)
    _estimate: Tensor | None = field(default=None, init=False)
    _skipped: int = field(default=0, init=False)
    _noise: Tensor | None = field(default=None, init=False)  # of the last computation
    _images: list[tuple[int, Tensor]] = field(default_factory=list, init=False)
    _is_late: bool = field(default=False, init=False)

    def computes(self, row: int, sample: Tensor) -> bool:
        """Whether the estimate does not say that this step may be skipped."""
        num_rows = len(self.signal)
        self._samples.append(sample)
        self._estimate = None
        bends = self._bends(row, sample) if row else 0.0
        first, late, last = (round(bound * num_rows / OF_STEPS) for bound in (FIRST, LATE, LAST))
        may = max(first, 3) <= row - 1 < last and self._estimate is not None and self._skipped < self.most
        self._is_late = self.every is not None and row - 1 >= late and len(self._images) == TERMS
        skips = may and ((row - 1) % self.every != 0 if self._is_late else bends <= 0)
        self._skipped = self._skipped + 1 if skips else 0
        return not skips

    def computed(self, row: int, sample: Tensor, output: Tensor) -> None:
        """Nothing is learned from outputs."""

    def correction(self, row: int, sample: Tensor) -> Tensor:
        """What makes of the held noise that of the estimate, or of Lagrange's image."""
        if self._is_late:
            return (sample - self.signal[row] * through(self._images, row)) / self.noise[row] - self._noise
        return (sample - self._estimate) / self.noise[row]

    def _bends(self, row: int, sample: Tensor) -> float:
        """The criterion at a row, of the step that led there; notes the derivative of that step and the estimate."""
        before = self._samples[-2]
        signal, noise = self.signal[row - 1], self.noise[row - 1]
        ratio = [self.noise[at] / self.signal[at] for at in (row - 1, row)]
        gone_by = (sample / self.signal[row] - before / signal) / (ratio[1] - ratio[0])
        if not self._skipped:
            self._noise = gone_by
        if self.every is not None and (row - 1) % self.every == 1 % self.every:
            self._images = [*self._images, (row - 1, (before - noise * gone_by) / signal)][-TERMS:]
        self._derivatives.append(0.5 * self.rates[row - 1] * (gone_by / noise - before))
        self._samples, self._derivatives = self._samples[-2:], self._derivatives[-3:]
        if len(self._derivatives) < 3:
            return 0.0
        oldest, older, newest = self._derivatives
        self._estimate = before - (0.625 * newest + 0.75 * older - 0.375 * oldest) / len(self.signal)
        return ((sample - self._estimate) * (newest - 2 * older + oldest)).mean().item()


def through(known: list[tuple[int, Tensor]], row: int) -> Tensor:
    """What the polynomial through values at some rows is at another one."""
    rows = [at for at, _ in known]
    factors = (math.prod((row - other) / (at - other) for other in rows if other != at) for at in rows)
    return sum(factor * value for factor, (_, value) in zip(factors, known, strict=True))
