"""Memory for the graphs of denoiser calls that shall not be run again on the way back."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class GraphMemory:
    """Counts what autograd saves, up to a limit.

    Args:
        most: Bytes.
        weights: Are there anyway.
    """

    def __init__(self, most: int, weights: Iterable[Tensor]) -> None:
        self._left = most
        self._counted = {weight.untyped_storage().data_ptr() for weight in weights}

    @property
    def is_left(self) -> bool:
        """Whether what was counted so far is within the limit."""
        return self._left > 0

    def counting(self) -> saved_tensors_hooks:
        """Count what is saved for as long as this lasts."""
        return saved_tensors_hooks(self._pack, lambda saved: saved)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._counted:
            self._counted.add(storage.data_ptr())
            self._left -= storage.nbytes()
        return tensor.detach()  # what a node saves of its own output would keep the node alive
