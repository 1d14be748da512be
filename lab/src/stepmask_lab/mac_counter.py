"""Counts the MACs that a denoiser really runs, whatever has been done to it; knows no masks and no plans.

Where a mask runs, `stepmask.inspection.measure_cost` says the same beforehand. This is for what has no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stepmask.gate import gated
from stepmask.inspection.measure_cost import FUSED_ATTENTION


class Counter(TorchDispatchMode):
    """Adds up the multiply-accumulates of the operations that torch runs, by the formulas of its FlopCounterMode.

    That itself also follows modules, and does not come back from those that hold their parents.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is None:  # in inference mode operations come whole that have none, but consist of some
            with self:
                value = func.decompose(*args, **kwargs)
            if value is not NotImplemented:
                return value
        value = func(*args, **kwargs)
        if formula is not None:
            self.macs += formula(*args, **kwargs, out_val=value) // 2
        return value


@contextmanager
def counted(denoiser: nn.Module) -> Iterator[Counter]:
    """Count the MACs of a denoiser's calls for a while.

    The conventions are those of `measure_cost`: attention products count, norms, activations and sums do not. Enter it
    after whatever replaces the denoiser's forward, and leave it before.
    """
    counter = Counter()

    def control(compute: Callable[[], Any], args: tuple, kwargs: dict) -> Any:
        with counter:
            return compute()

    with gated([("denoiser", denoiser, control)]):
        yield counter


_FORMULAS = {**flop_registry, **FUSED_ATTENTION}
