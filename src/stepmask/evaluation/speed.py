"""Measured speed-up: the full and the masked run in turns, so that both meet the same machine.

Two clocks: the time inside the denoiser's calls, which a mask can shorten, and the whole pipeline call, which also
holds the scheduler, the guidance and the decoder. Knows nothing of images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from stepmask.inspection.placement import device_of
from stepmask.inspection.registry import denoisers_of


class Times(NamedTuple):
    """The seconds that one run took."""

    denoiser: float  #: The sum over all calls of the denoiser.
    call: float  #: The whole pipeline call.


@dataclass(frozen=True)
class Ratio:
    """Summarises full time over masked time, from runs made in turns."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, full: Sequence[float], masked: Sequence[float]) -> Ratio:
        """Summarise the ratios of paired times."""
        ratios = np.asarray(full) / np.maximum(np.asarray(masked), 1e-9)
        return cls(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


@dataclass(frozen=True)
class Speed:
    """Holds the measured speed-up of a masked run over the full run."""

    denoiser: Ratio  #: The ratio of the times inside the denoiser's calls.
    call: Ratio  #: The ratio of the times of the whole pipeline call.
    full_s: Times  #: Median seconds of the full run for one batch.
    masked_s: Times  #: Median seconds of the masked run for one batch.
    pairs: int  #: Number of full runs, each with a masked run right after it.
    batch_size: int  #: Number of images per run.

    @classmethod
    def of(cls, pairs: Sequence[tuple[Times, Times]], batch_size: int) -> Speed:
        """Summarise pairs of a full and a masked run."""
        full, masked = map(np.asarray, zip(*pairs, strict=True))
        return cls(
            denoiser=Ratio.of(full[:, 0], masked[:, 0]),
            call=Ratio.of(full[:, 1], masked[:, 1]),
            full_s=Times(*np.median(full, axis=0).tolist()),
            masked_s=Times(*np.median(masked, axis=0).tolist()),
            pairs=len(pairs),
            batch_size=batch_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "full_s": self.full_s._asdict(), "masked_s": self.masked_s._asdict()}


class Stopwatch:
    """Adds up the time inside a denoiser's calls; accelerators are waited for before the clock is read."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._began = 0.0

    def now(self) -> float:
        """Seconds, after the device has done what it was given."""
        if self._device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()

    @torch.compiler.disable
    def start(self, *_: Any) -> None:
        """A call begins; usable as a forward hook."""
        self._began = self.now()

    @torch.compiler.disable
    def stop(self, *_: Any) -> None:
        """The call is over."""
        self.seconds += self.now() - self._began


@contextmanager
def timed_denoiser(*denoisers: nn.Module, device: torch.device | None = None) -> Iterator[Stopwatch]:
    """Time every call of denoisers for a while, what an applied mask does before and after a forward included.

    All run on one `device`; by default the one that the first computes on.
    """
    watch = Stopwatch(device or device_of(denoisers[0]))
    hooks = []
    for denoiser in denoisers:
        hooks.append(denoiser.register_forward_pre_hook(watch.start, prepend=True))
        hooks.append(denoiser.register_forward_hook(watch.stop, always_call=True))
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def timed(pipe: Any, run: Callable[[], Any]) -> tuple[Any, Times]:
    """Return the result and the times of `run`, which calls the pipeline once."""
    with timed_denoiser(*denoisers_of(pipe), device=getattr(pipe, "_execution_device", None)) as watch:
        began = watch.now()
        result = run()
        return result, Times(watch.seconds, watch.now() - began)
