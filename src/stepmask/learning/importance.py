"""What a run of the original model tells before learning: how fast its output changes, and which steps matter.

How much an error at a step matters to the final image differs by orders of magnitude between steps. It is measured:
one step's output is replaced by the output of the step before, as a cache would do, and the final images compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from stepmask.architectures import denoiser_of
from stepmask.learning.losses import relative_norm
from stepmask.learning.riding import first_tensor, riding
from stepmask.runtime.position import Position


@dataclass(frozen=True)
class Calibration:
    """Facts about the original model's run.

    Attributes:
        delta: (T,) relative change of the output since the step before, Eq. 9; 0 at step 0.
        importance: (T,) relative change of the final image per relative error of the step's output, mean 1.
    """

    delta: Tensor
    importance: Tensor


class _Recorder:
    """Keeps the outputs of a run, or plays them back up to a row, spoils that row, and computes on."""

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser
        self.outputs: dict[tuple[int, int], Any] = {}
        self.spoiled_row: int | None = None
        self.spoiled_by = 0.0

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        key = (position.row, position.stream)
        if self.spoiled_row is None:
            output = forward()
            self.outputs[key] = tree_map(lambda t: t.cpu() if isinstance(t, Tensor) else t, output)
            return output
        if position.row > self.spoiled_row:
            return forward()
        before = (position.row - 1, position.stream) if position.row == self.spoiled_row else key
        if before not in self.outputs:  # a stream that is not there at every row
            return forward()
        device = next(self._denoiser.parameters()).device
        if before != key:
            self.spoiled_by = self.change(*before, *key)
        return tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, self.outputs[before])

    def change(self, row: int, stream: int, next_row: int, next_stream: int) -> float:
        """Relative change of the output from one recorded call to another."""
        one = first_tensor(self._denoiser, self.outputs[row, stream])
        other = first_tensor(self._denoiser, self.outputs[next_row, next_stream])
        if one.shape != other.shape:
            return 0.0
        return relative_norm(other - one, other).mean().item()


def calibrate(pipe: Any, call: Callable[[], Tensor], measure_importance: bool, num_probes: int = 12) -> Calibration:
    """Run the original model once, and once more per probed step from that step on.

    Args:
        pipe: The pipeline.
        call: Runs the pipeline from fixed noise and returns the final images or latents (N, C, H, W).
        measure_importance: Otherwise all steps count alike and nothing is probed.
        num_probes: Steps to probe; the others are interpolated between them.
    """
    recorder = _Recorder(denoiser_of(pipe))
    with riding(pipe, lambda step, site, compute, cache: compute(), recorder):
        final = call()
        rows = 1 + max(row for row, _ in recorder.outputs)
        delta = torch.zeros(rows)
        for row in range(1, rows):
            if (row - 1, 0) in recorder.outputs and (row, 0) in recorder.outputs:
                delta[row] = recorder.change(row - 1, 0, row, 0)
        importance = torch.ones(rows)
        if measure_importance and rows > 2:
            probes = np.unique(np.rint(np.linspace(1, rows - 1, min(num_probes, rows - 1))).astype(int))
            effects = []
            for row in probes.tolist():
                recorder.spoiled_row, recorder.spoiled_by = row, 0.0
                moved = relative_norm(call() - final, final).mean().item()
                effects.append(max(moved, 1e-9) / max(recorder.spoiled_by, 1e-9))
            log_effect = np.interp(np.arange(rows), probes, np.log(effects))
            importance = torch.tensor(np.exp(log_effect), dtype=torch.float32)
            importance = importance / importance[1:].mean()
    return Calibration(delta, importance)
