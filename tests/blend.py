"""The obvious implementation that effects of a chain are held to.

Hooks keep every value and its graph, and hand out at every read of a site the value under the table, and a bit of the
value that a table with one cell switched would hand out.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from stepmask import StepMask, describe
from stepmask.mask import Action
from tiny import map_pairs, module_of, newton, spread

IMAGES = 2


class Blend:
    """Hooks that run a table, mixed by `amounts` with all tables that differ from it in one cell.

    A read of a site is ``now + sum over switches of amount * (the value after the switch - now)``, where each value is
    the last one that the table in question computes, the line through its last two, or the weighted sum of its last
    few. What sites would compute is known at every row: a site that contains others computes it as the table says of
    those, and where it rests with all of them, whose values are handed out to nobody else then.
    """

    def __init__(self, model, mask: StepMask, amounts: Tensor | dict) -> None:
        """`amounts` is (T, B, actions, IMAGES), or {(row, site, action): number} for single ones."""
        self.row = self.stream = 0
        self._mask, self._actions, self._amounts = mask, mask.actions, amounts
        self._gains = np.ones(self._actions.shape) if mask.gains is None else mask.gains
        self._channels, self._weights = mask.channel_gains or {}, mask.weights or {}
        self._fresh: dict[tuple[int, int], list] = {}
        self._names = describe(model).names
        assert mask.sites == self._names
        self._around = [
            [i for i, outer in enumerate(self._names) if one.startswith(f"{outer}.")] for one in self._names
        ]
        self._hooks = [
            module_of(model, name).register_forward_hook(self._hook(i)) for i, name in enumerate(self._names)
        ]

    def _hook(self, site: int):
        def swap(module, args, output):
            fresh = self._fresh.setdefault((self.stream, site), [])
            assert len(fresh) == self.row
            fresh.append(output)
            around = self._around[site]
            if (self._actions[self.row, around] != Action.compute).any():
                return output
            now = mixed = self._value(fresh, self._actions, site)
            for (row, switched, action), amount in self._switches([site, *around]):
                # a value within the one that is switched is another one for the rows after it
                if row < self.row or (row == self.row and switched == site):
                    after = self._value(fresh, self._with(row, switched, action), site)
                    mixed = tree_map(lambda m, a, n, x=amount: m + per_image(x, m) * (a - n), mixed, after, now)
            return mixed

        return swap

    def _switches(self, sites: list[int]) -> list[tuple[tuple[int, int, int], Tensor]]:
        if isinstance(self._amounts, dict):
            given = {cell: torch.full((IMAGES,), x).double() for cell, x in self._amounts.items()}
        else:
            rows, _, actions, _ = self._amounts.shape
            cells = ((row, site, action) for row in range(1, rows) for site in sites for action in range(actions))
            given = {cell: self._amounts[cell] for cell in cells}
        return [(cell, x) for cell, x in given.items() if cell[1] in sites and self._actions[cell[:2]] != cell[2]]

    def _with(self, row: int, site: int, action: int) -> np.ndarray:
        """The table with one cell switched. Where it computes then, later rows are left with what they read."""
        switched = self._actions.copy()
        switched[row, site] = action
        return switched

    def _value(self, fresh: list, actions: np.ndarray, site: int):
        """What a site hands out at this row if all act as the table says."""
        name = self._names[site]
        computes = (actions[: self.row + 1, [site, *self._around[site]]] == Action.compute).all(axis=1)
        known = [(int(row), fresh[row]) for row in np.flatnonzero(computes)[::-1]]
        if actions[self.row, site] != Action.linear or len(known) == 1:
            return known[0][1]
        if name in self._weights:
            return newton(known, self.row, self._weights[name][self.row])
        (newest, value), (second, older) = known[:2]
        far = self._gains[self.row, site] * (self.row - newest) / (newest - second)
        slopes = map_pairs(lambda old, new: far * (new - old), older, value)
        return tree_map(torch.add, value, spread(self._channels.get(name, np.ones(1)), slopes))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def per_image(amount: Tensor, tensor: Tensor) -> Tensor:
    """A number for each image, to spread over a tensor."""
    return amount.repeat(len(tensor) // IMAGES).view(-1, *[1] * (tensor.dim() - 1))
