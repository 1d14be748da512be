"""What making a mask takes, counted alike for every method: denoiser calls and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from stepmask.gate import gated
from stepmask.learning.processes import current
from stepmask.mask import DENOISER_CALLS, SECONDS


class Effort:
    """Counts from when it is made; what an interrupted session took is added with `go_on_from`.

    A call is one forward pass of the denoiser, whatever its batch and with gradient or without; passes that are run
    again on the way back count again. What several processes shared out counts as if one had done it all.
    """

    def __init__(self) -> None:
        self._processes = current()
        self._calls, self._before, self._began = -self._processes.calls, 0.0, time.perf_counter()

    @contextmanager
    def counting(self, *denoisers: nn.Module) -> Iterator[None]:
        """Count the calls of denoisers for a while, those made by whatever gates them meanwhile included.

        Where accelerate offloads one, and puts its forward anew in each call of the pipeline, such calls are not.
        """

        def count(*_: Any) -> None:
            self._processes.calls += 1

        def counted(compute: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
            count()
            return compute()

        hooked = [denoiser for denoiser in denoisers if hasattr(denoiser, "_hf_hook")]
        hooks = [denoiser.register_forward_pre_hook(count) for denoiser in hooked]
        try:
            with gated([(type(one).__name__, one, counted) for one in denoisers if one not in hooked]):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def go_on_from(self, facts: Mapping[str, Any]) -> None:
        """Add what `facts` said at the end of an earlier session."""
        self._calls += facts[DENOISER_CALLS]
        self._before += facts[SECONDS]

    def facts(self) -> dict[str, Any]:
        """For the provenance of masks: ``denoiser_calls`` and ``seconds`` so far."""
        seconds = self._before + time.perf_counter() - self._began
        return {DENOISER_CALLS: self._calls + self._processes.calls, SECONDS: round(seconds, 3)}
