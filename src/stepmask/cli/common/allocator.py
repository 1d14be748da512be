"""Keeps freed memory in the process: Linux's allocator otherwise gives it back and faults it in again at every step.

Concerns CPUs only. A property of the command's process, not of the library: users of the library set
``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` in the environment for the same effect.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP = 2**30


def keep_freed_memory() -> None:
    """Raise glibc's thresholds; does nothing where there is no glibc."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEEP)
        mallopt(_M_MMAP_THRESHOLD, _KEEP)
