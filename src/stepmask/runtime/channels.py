"""Where values have their channels, and factors that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from stepmask.errors import MaskMismatchError


def channel_dim(value: Tensor) -> int:
    """Where a tensor has its channels: last in tokens (N, L, C), second in images and videos (N, C, ...)."""
    return 1 if value.dim() > 3 else -1


def along_channels(vector: Tensor, value: Tensor) -> Tensor:
    """A (C,) vector in the dtype and on the device of a value, in a shape that spreads over its other dimensions.

    Beside a value of which each of several processes holds a part it is there in all of them.
    """
    behind = value.dim() - 1 - channel_dim(value) % value.dim()
    spread = vector.to(value.device, value.dtype).view(-1, *[1] * behind)
    mesh = getattr(value, "device_mesh", None)
    if mesh is None:
        return spread
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(spread, mesh, [Replicate()] * mesh.ndim, run_check=False)


class ChannelGains:
    """Factors of slopes by channel, as tensors beside the values that they are for.

    Args:
        names: The names of the B sites.
        by_site: Factors (C,) of some of them; those of several tensors in a value follow each other.
    """

    def __init__(self, names: Sequence[str], by_site: Mapping[int, np.ndarray]) -> None:
        self._names, self._by_site = names, by_site
        self._made: dict[tuple[int, torch.device, torch.dtype], list[Tensor]] = {}

    def of(self, site: int, parts: Sequence[Tensor]) -> list[Tensor] | None:
        """A factor for each tensor of a value, to spread over it; None where all are 1.

        Raises:
            MaskMismatchError: There are more or fewer channels.
        """
        vector = self._by_site.get(site)
        if vector is None:
            return None
        key = site, parts[0].device, parts[0].dtype
        if key not in self._made:
            counts = [part.shape[channel_dim(part)] for part in parts]
            if sum(counts) != len(vector):
                raise MaskMismatchError(
                    f"the mask has gains for {len(vector)} channels of {self._names[site]}, whose values have "
                    f"{sum(counts)}: it was learned for another model; mask.with_actions(mask.actions) goes without"
                )
            factors = torch.from_numpy(vector.copy()).split(counts)
            self._made[key] = [along_channels(factor, part) for factor, part in zip(factors, parts, strict=True)]
        return self._made[key]
