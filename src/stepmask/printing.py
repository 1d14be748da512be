"""What is printed: texts as they are, whatever they hold and wherever they go.

Names and texts come from files, so that no console here reads markup, and none breaks where a stream cannot take a
letter, is closed or is full.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from stepmask.errors import StepMaskError

PLAIN = str.maketrans({"█": "#", "▓": "+", "▒": "~", "░": "-", "·": ".", "…": "~", "—": "-", "–": "-"})
"""What stands for shades and dots where a stream's encoding has none."""


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = error.object[error.start : error.end].translate(PLAIN)
    return plain.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("stepmask", _replaced)


class Stream:
    """A stream of text that takes every text, and says in words what else goes wrong.

    Args:
        stream: What is written to; None where it is closed.
        matters: Whether it is told where nothing can be written.
    """

    def __init__(self, stream: Any, matters: bool = True) -> None:
        self._stream, self._matters = stream, matters

    @property
    def encoding(self) -> str:
        """The encoding of what is written."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write a text."""
        with self._told():
            self._there().write(text.encode(self.encoding, "stepmask").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Write what waits to be written."""
        with self._told():
            self._there().flush()

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)

    def _there(self) -> Any:
        if self._stream is None:
            raise OSError("it is closed")
        return self._stream

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # whoever read it has read enough
            raise
        except (OSError, ValueError) as error:
            self._let_go()
            if self._matters:
                reason = getattr(error, "strerror", None) or error
                raise StepMaskError(f"cannot write what there is to say to the standard output ({reason})") from error

    def _let_go(self) -> None:
        """Send elsewhere what still waits, which would fail again at the end of the program."""
        with contextlib.suppress(Exception):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def console(stream: Any = None, width: int | None = None) -> Console:
    """A console that prints texts as they are; on stderr where no stream is given."""
    return Console(
        file=sys.stderr if stream is None else stream, width=width, markup=False, emoji=False, highlight=False
    )


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Let stdout and stderr take every text for a while, and forget a width of the terminal that is none."""
    before, columns = (sys.stdout, sys.stderr), os.environ.get("COLUMNS")
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr, matters=False)
    if columns is not None and not (columns.isdecimal() and int(columns) >= NARROWEST):
        del os.environ["COLUMNS"]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        if columns is not None:
            os.environ["COLUMNS"] = columns


NARROWEST = 20
"""Tables need so many characters."""
