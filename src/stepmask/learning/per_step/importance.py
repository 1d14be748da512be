"""What a run of the original model tells before learning: how fast its output changes, and which steps matter.

How much an error at a step matters to the final image differs by orders of magnitude between steps. It is measured:
at one step every site holds the value of the step before, as a mask would have it, and the final images are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from stepmask.inspection.registry import denoiser_of
from stepmask.learning.per_step.config import Importance
from stepmask.learning.per_step.losses import relative_norm
from stepmask.learning.riding import first_tensor, riding
from stepmask.runtime.cache import Cache, Feature
from stepmask.runtime.position import Position


@dataclass(frozen=True)
class Calibration:
    """Facts about the original model's run.

    Attributes:
        delta: (T,) relative change of the output since the step before, Eq. 9; 0 at step 0.
        importance: (T,) how much each step matters, mean 1.
    """

    delta: Tensor
    importance: Tensor


class _Prober:
    """Records the outputs of a run; then plays them back up to a row, holds every site there, and computes on."""

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser
        self._device = next(denoiser.parameters()).device
        self.outputs: dict[tuple[int, int], Any] = {}
        self.held_row: int | None = None
        self.error = 0.0
        """Relative error of the output at the held row."""

    def policy(self, step: int, site: int, compute: Callable[[], Feature], cache: Cache) -> Feature:
        """Keep values one row before the held one, and hand them out there."""
        if step == self.held_row:
            return cache.get(site)
        value = compute()
        if self.held_row is not None and step == self.held_row - 1:
            cache.put(site, value)
        return value

    def __call__(self, position: Position, forward: Callable[[], Any]) -> Any:
        key = (position.row, position.stream)
        if self.held_row is None:
            output = forward()
            self.outputs[key] = tree_map_only(Tensor, Tensor.cpu, output)
            return output
        if position.row < self.held_row:
            if position.row == self.held_row - 1:
                forward()  # for the sites' values
            return tree_map_only(Tensor, lambda t: t.to(self._device), self.outputs[key])
        output = forward()
        if position.row == self.held_row:
            held = first_tensor(self._denoiser, tree_map_only(Tensor, Tensor.cpu, output))
            true = first_tensor(self._denoiser, self.outputs[key])
            self.error = max(self.error, relative_norm(held - true, true).mean().item())
        return output

    def change(self, row: int) -> float:
        """Relative change of the first stream's output from one row to the next; 0 where they cannot be compared."""
        if (row - 1, 0) not in self.outputs or (row, 0) not in self.outputs:
            return 0.0
        before = first_tensor(self._denoiser, self.outputs[row - 1, 0])
        now = first_tensor(self._denoiser, self.outputs[row, 0])
        return relative_norm(now - before, now).mean().item() if now.shape == before.shape else 0.0


def calibrate(pipe: Any, call: Callable[[], Tensor], kind: Importance, num_probes: int = 12) -> Calibration:
    """Run the original model once, and once more per probed step from that step on.

    Args:
        pipe: The pipeline.
        call: Runs the pipeline from fixed noise and returns the final images (N, C, H, W).
        kind: ``"final"``: relative change of the final image per relative error of the step's output; ``"proxy"``:
            square of that change; ``"uniform"``: all steps count alike and nothing is probed.
        num_probes: Steps to probe; the others are interpolated between them.
    """
    prober = _Prober(denoiser_of(pipe))
    with riding(pipe, prober.policy, prober) as ride:
        final = ride.latents(call())
        rows = 1 + max(row for row, _ in prober.outputs)
        delta = torch.tensor([0.0] + [prober.change(row) for row in range(1, rows)])
        importance = torch.ones(rows)
        streams = {stream for _, stream in prober.outputs}
        steady = all((row, stream) in prober.outputs for row in range(rows) for stream in streams)
        if kind != "uniform" and rows > 2 and steady:
            probes = np.unique(np.rint(np.linspace(1, rows - 1, min(num_probes, rows - 1))).astype(int))
            effects = []
            for row in probes.tolist():
                prober.held_row, prober.error = row, 0.0
                moved = relative_norm(ride.latents(call()) - final, final).mean().item()
                moved = max(moved, 1e-9)
                effects.append(moved**2 if kind == "proxy" else moved / max(prober.error, 1e-9))
            log_effect = np.interp(np.arange(rows), probes, np.log(effects))
            importance = torch.tensor(np.exp(log_effect), dtype=torch.float32)
            importance = importance / importance[1:].mean()
    return Calibration(delta, importance)
