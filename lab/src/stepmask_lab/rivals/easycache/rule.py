"""EasyCache: the change of the output is told from that of the input, by the rate that was seen last."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

WARM_UP, OF_STEPS = 10, 50


@dataclass
class EasyCache:
    """The rule of one image (Zhou et al. 2025, arXiv 2507.02860).

    Taken from the authors' code: the first 10 of 50 steps compute, and the last; in between, the mean absolute change
    of the input since the step before, times the rate at which outputs changed with inputs between the last two
    computations, over the mean absolute output, is added up until it reaches a threshold. What differs: the warm-up
    scales with the number of steps; each image decides for itself; and where the model predicts noise, the output is
    held, while theirs, which predict velocities, add what the output was away from the input.

    Attributes:
        num_rows: T.
        threshold: The sum at which the denoiser is called.
        adds_input: Whether the model predicts a velocity.
    """

    num_rows: int
    threshold: float
    adds_input: bool = False

    def __post_init__(self) -> None:
        self._added = 0.0
        self._rate: float | None = None
        self._before: Tensor | None = None  # the sample of the row before
        self._known: tuple[Tensor, Tensor] | None = None  # sample and output at the last computation

    def computes(self, row: int, sample: Tensor) -> bool:
        """Whether the sum has reached the threshold; it begins anew then."""
        warm_up = max(1, round(WARM_UP * self.num_rows / OF_STEPS))
        before, self._before = self._before, sample
        if row < warm_up or row == self.num_rows - 1 or self._rate is None:
            self._added = 0.0
            return True
        self._added += self._rate * _size(sample - before) / _size(self._known[1])
        if self._added < self.threshold:
            return False
        self._added = 0.0
        return True

    def computed(self, row: int, sample: Tensor, output: Tensor) -> None:
        """Learn the rate."""
        if self._known is not None:
            then, before = self._known
            self._rate = _size(output - before) / max(_size(sample - then), 1e-12)
        self._known = sample, output

    def correction(self, row: int, sample: Tensor) -> Tensor | None:
        """How far the sample has gone since, where the model predicts a velocity."""
        return sample - self._known[0] if self.adds_input else None


def _size(tensor: Tensor) -> float:
    return tensor.float().abs().mean().item()
