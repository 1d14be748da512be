"""The obvious implementation that effects of a chain are held to.

Hooks keep every value and its graph, and hand out at every read of a site the value under the table, and a bit of the
value that a table with one cell switched would hand out.
"""

import numpy as np
import torch
from torch import Tensor

from stepmask import StepMask, describe
from stepmask.mask import Action

IMAGES = 2


class Blend:
    """Hooks that run a table, mixed by `amounts` with all tables that differ from it in one cell.

    A read of a site is ``now + sum over switches of amount * (the value after the switch - now)``, where each value is
    the last one that the table in question computes, or the line through its last two. What sites would compute is
    known at every row.
    """

    def __init__(self, model, mask: StepMask, amounts: Tensor | dict) -> None:
        """`amounts` is (T, B, actions, IMAGES), or {(row, site, action): number} for single ones."""
        self.row = self.stream = 0
        self._actions, self._amounts = mask.actions, amounts
        self._gains = np.ones(self._actions.shape) if mask.gains is None else mask.gains
        self._channels = mask.channel_gains or {}
        self._fresh: dict[tuple[int, int], list] = {}
        modules, self._names = dict(model.named_modules()), describe(model).names
        self._hooks = [modules[name].register_forward_hook(self._hook(i)) for i, name in enumerate(self._names)]

    def _hook(self, site: int):
        def swap(module, args, output):
            fresh = self._fresh.setdefault((self.stream, site), [])
            assert len(fresh) == self.row
            fresh.append(output)
            column = self._actions[:, site]
            now = self._value(fresh, column, site)
            mixed = now
            for (row, action), amount in self._switches(site).items():
                if row <= self.row and column[row] != action:
                    switched = column.copy()
                    switched[row] = action
                    amount = amount.repeat(len(output) // IMAGES).view(-1, *[1] * (output.dim() - 1))
                    mixed = mixed + amount * (self._value(fresh, switched, site) - now)
            return mixed

        return swap

    def _switches(self, site: int) -> dict[tuple[int, int], Tensor]:
        if isinstance(self._amounts, dict):
            every = {(r, a): torch.full((IMAGES,), x).double() for (r, s, a), x in self._amounts.items() if s == site}
            return every
        rows, _, actions, _ = self._amounts.shape
        return {(row, a): self._amounts[row, site, a] for row in range(1, rows) for a in range(actions)}

    def _value(self, fresh: list, column: np.ndarray, site: int) -> Tensor:
        """What a site hands out at this row if it acts as the column says."""
        computed = [row for row in range(self.row + 1) if column[row] == Action.compute]
        newest = computed[-1]
        if column[self.row] != Action.linear or len(computed) == 1:
            return fresh[newest]
        second = computed[-2]
        slope = (fresh[newest] - fresh[second]) / (newest - second)
        factors = self._channels.get(self._names[site])
        if factors is not None:
            dim = 1 if slope.dim() > 3 else -1
            slope = (slope.movedim(dim, -1) * torch.tensor(factors)).movedim(-1, dim)
        return fresh[newest] + self._gains[self.row, site] * (self.row - newest) * slope

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
