"""Cached values that wait on another device, the host for example, and come back where they are read.

Copies go both ways on a stream of their own, so that the model computes meanwhile; what is read next is asked for
before it is read (`Away.bring`).
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from stepmask.errors import StepMaskError
from stepmask.values import Value, num_bytes, put_together, take_apart, tensors_in


def checked_device(device: Any) -> torch.device | None:
    """The device on which values shall wait; None where none is named.

    Raises:
        StepMaskError: There is no such device, or it keeps no values.
    """
    try:
        found = None if device is None else torch.device(device)
        if found is not None:
            torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise StepMaskError(f"cache_device={device!r} is no device of this machine: take 'cpu' for the host") from error
    if found is not None and found.type == "meta":
        raise StepMaskError("cache_device='meta' keeps no values: take 'cpu' for the host")
    return found


def moves(tensor: Tensor, device: torch.device) -> bool:
    """Whether a tensor is to wait on this device and is elsewhere; parts of one that processes share stay."""
    here = tensor.device.type == device.type and device.index in (None, tensor.device.index)
    return type(tensor) is Tensor and not here


def sent(value: Value, device: torch.device | None) -> Value | Away:
    """What to keep of a value: itself, or what waits on a device and comes back."""
    stays = device is None or not any(moves(tensor, device) for tensor in take_apart(value)[0])
    return value if stays else Away(value, device)


class Away:
    """A value that waits on another device."""

    def __init__(self, value: Value, device: torch.device) -> None:
        self.num_bytes, self.shapes = num_bytes(value), [tensor.shape for tensor in tensors_in(value)]
        tensors, self._layout = take_apart(value)
        self._parts = [_Part(tensor, device if moves(tensor, device) else tensor.device) for tensor in tensors]

    def bring(self) -> None:
        """Begin to copy it back, unless that has begun."""
        for part in self._parts:
            part.bring()

    def brought(self) -> Value:
        """The value on its own device, which has it no longer than the caller."""
        return put_together([part.brought() for part in self._parts], self._layout)


class _Part:
    """A tensor that waits on another device, and the event after which its copy is there."""

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        self._home, self._coming = tensor.device, None
        self._side = _side_stream(tensor.device)
        with self._beside(after_what_runs=True):
            pinned = self._side is not None and device.type == "cpu"
            self._tensor = torch.empty_like(tensor, device=device, pin_memory=pinned)
            self._tensor.copy_(tensor.detach(), non_blocking=pinned)
        if self._side is not None:
            tensor.record_stream(self._side)  # it may be let go before it was copied

    def bring(self) -> None:
        if self._coming is None:
            with self._beside():
                coming = torch.empty_like(self._tensor, device=self._home)
                coming.copy_(self._tensor, non_blocking=self._side is not None)
            self._coming = coming, None if self._side is None else self._side.record_event()

    def brought(self) -> Tensor:
        self.bring()
        (tensor, event), self._coming = self._coming, None
        if event is not None:
            now = torch.get_device_module(self._home).current_stream(self._home)
            now.wait_event(event)
            tensor.record_stream(now)
        return tensor

    def _beside(self, after_what_runs: bool = False) -> Any:
        """Within it, work is queued on the stream of copies."""
        if self._side is None:
            return nullcontext()
        module = torch.get_device_module(self._home)
        if after_what_runs:
            self._side.wait_stream(module.current_stream(self._home))
        return module.stream(self._side)


@cache
def _side_stream(device: torch.device) -> Any:
    """The stream of copies from and to a device; None of those that have none."""
    module = None if device.type in ("cpu", "meta") else torch.get_device_module(device)
    return module.Stream(device) if hasattr(module, "Stream") and hasattr(module, "stream") else None
