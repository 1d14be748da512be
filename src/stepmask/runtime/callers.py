"""Which threads are in the middle of a call of a pipeline, read from their stacks: asked in rare cases alone."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any


def is_caller(pipe: Any) -> bool:
    """Whether this thread is in the middle of a call of a pipeline."""
    return _is_below_call(sys._getframe(1), pipe)


def other_callers(pipe: Any) -> list[int]:
    """The other threads that are."""
    mine = threading.get_ident()
    return [thread for thread, frame in sys._current_frames().items() if thread != mine and _is_below_call(frame, pipe)]


def _is_below_call(frame: FrameType | None, pipe: Any) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__call__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is pipe:
            return True
        frame = frame.f_back
    return False
