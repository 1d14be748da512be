"""The relaxed model: one policy that runs the original model, or the masked one and collects gradients by score.

History is detached: gradients flow within one step only, so memory is that of one step whatever the number of steps is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stepmask.learning.paper.relaxations import Draw, mix, per_image
from stepmask.runtime.cache import Cache
from stepmask.values import Value, put_together, take_apart


class RelaxedPolicy:
    """Hands out fresh, held or mixed values by the draw of the current row.

    Args:
        num_rows: T.
        num_sites: B.
    """

    def __init__(self, num_rows: int, num_sites: int) -> None:
        self.gradient = torch.zeros(num_rows, num_sites)
        """(T, B) derivative of the summed losses by the scores."""
        self.teacher = True
        """Whether to run the original model."""
        self.draw: Draw | None = None
        self.row = 0
        """Row of the scheduler's run."""
        self.stream = 0
        self.copies = 1
        """Of each image in a call: 2 where guidance runs both halves at once."""
        self.loss_scale = 1.0
        """What the loss is multiplied by on its way back."""
        self.mixed = False
        """Whether a value of the latest call depends on scores; not where a stream begins."""

    def __call__(self, step: int, site: int, compute: Callable[[], Value], cache: Cache) -> Value:
        """The value of one cell; its cache is refreshed while the masked model runs."""
        if self.teacher:
            return compute()
        fresh = compute()
        fresh_parts, layout = take_apart(fresh)
        if step == 0 or self.draw is None:
            cache.put(site, put_together([part.detach() for part in fresh_parts], layout))
            return fresh
        values, kept, changes = [], [], []
        for new, old in zip(fresh_parts, take_apart(cache.get(site))[0], strict=True):
            weight = per_image(self.draw.weight[:, site], new, self.copies)
            refresh = per_image(self.draw.refresh[:, site], new, self.copies)
            value = mix(weight, new, old)
            if not value.requires_grad:
                value.requires_grad_()
            values.append(value)
            kept.append(torch.where(refresh, new, old).detach())
            changes.append((new - old).detach())
        self.mixed = True
        self._collect(self.row, site, values, changes)
        cache.put(site, put_together(kept, layout))
        return put_together(values, layout)

    def _collect(self, row: int, site: int, values: list[Tensor], changes: list[Tensor]) -> None:
        """Let the gradient of these values tell what their score is worth."""
        draw, gradient, copies, scale = self.draw, self.gradient, self.copies, self.loss_scale

        def hook_for(part: int) -> Callable[[Tensor], None]:
            def hook(g: Tensor) -> None:
                slope = draw.slope[:, site]
                gradient[row, site] += (_inner(g, changes[part], copies, len(slope)) * slope).sum() / scale

            return hook

        for part, value in enumerate(values):
            value.register_hook(hook_for(part))


def _inner(a: Tensor, b: Tensor, copies: int, num_images: int) -> Tensor:
    """(num_images,) inner products per image, over all copies of an image in the batch."""
    products = (a.detach().float() * b.float()).flatten(1).sum(1)
    return products.view(copies, num_images, -1).sum((0, 2)).cpu()
