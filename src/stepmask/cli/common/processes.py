"""Verbs that several processes run together: they meet first, and the first one alone says what there is to say."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import typer

from stepmask.errors import StepMaskError
from stepmask.learning.processes import GO_ON, LostProcessError, Processes, is_first_to_say, launched, together


@contextlib.contextmanager
def one_voice() -> Iterator[Processes]:
    """Meet the other processes for a while; what goes wrong in any of them ends all, and one of them says it."""
    before = None
    try:
        with together() as processes:
            if processes.count > 1:
                before = signal.signal(signal.SIGTERM, _told_to_end)
            yield processes
    except LostProcessError:
        before = signal.SIG_IGN  # it ends now in any case, and shall say why
        signal.signal(signal.SIGTERM, before)
        if not is_first_to_say("lost"):
            raise typer.Exit(2) from None
        raise
    except (StepMaskError, KeyboardInterrupt) as error:
        if launched()[0]:
            raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 2) from None
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _told_to_end(number: int, frame: Any) -> None:
    """As launchers tell all others when one process has died."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise LostProcessError(f"this process was told to end, as launchers do when another one has ended: {GO_ON}")
