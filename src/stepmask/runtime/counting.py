"""Counts the MACs that a denoiser really runs, whatever has been done to it; knows no masks and no plans.

Where a mask runs, `stepmask.runtime.profiling` says the same beforehand. This is for what has no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from stepmask.runtime.gate import Gates


class Counter:
    """Multiply-accumulates of the calls of a denoiser since counting began, attention products included."""

    def __init__(self) -> None:
        self.macs = 0

    def __call__(self, compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
        """Run one call; a controller of a `Gate`."""
        # a linear layer whose input is not contiguous is a batched product, torch's formulas know both
        with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as flops:
            value = compute()
        self.macs += flops.get_total_flops() // 2
        return value


@contextmanager
def counted(denoiser: nn.Module) -> Iterator[Counter]:
    """Count the MACs of a denoiser's calls for a while: by the operations that torch runs, not by its modules.

    The conventions are those of `measure_cost`: attention products count, norms, activations and sums do not. Enter it
    after whatever replaces the denoiser's forward, and leave it before.
    """
    counter = Counter()
    gates = Gates([("denoiser", denoiser, counter)])
    try:
        yield counter
    finally:
        gates.remove()


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# torch's counter takes the fused attention of the CPU for free
_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
