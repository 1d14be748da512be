"""What a pickle would become, found without making it: refused where that is more than a file of numbers needs.

A few bytes may say a tuple within a tuple that takes for ever to hash, or a block of memory of any size. Here every
value is its size and depth alone.
"""

from __future__ import annotations

import pickletools
import re
from typing import NamedTuple

from stepmask.errors import StepMaskError

MOST_VALUES, MOST_DEPTH, MOST_OPCODES = 10**6, 50, 10**6
GLOBALS = re.compile(
    r"collections OrderedDict|argparse Namespace|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage|"
    r"torch (Size|device|\w+\d+)"
)
"""What a file of tensors and options names: nothing else is made."""
COUNTED = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "REDUCE": 1, "NEWOBJ": 1, "BUILD": 1}
"""Opcodes that take so many values; all but tuples put them into the one before."""
MARKED = ("TUPLE", "APPENDS", "SETITEMS", "LIST", "DICT")
"""Those that take all values since the latest mark."""
ALONE = (
    "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2",
    "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "STRING", "BINSTRING", "SHORT_BINSTRING",
)  # fmt: skip
"""Those that make a value of nothing."""
GETS, PUTS = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT")


class Size(NamedTuple):
    """Of a value: how many values it is made of, those that stand there twice counted twice, and how deep they are."""

    count: int
    depth: int


ONE = Size(1, 0)


def check_pickle(data: bytes) -> None:
    """See that a pickle says no more than tensors and options.

    Raises:
        StepMaskError: It is larger or deeper, names something else, or is no pickle.
    """
    try:
        _Reader().read(data)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, StepMaskError):
            raise
        raise StepMaskError(f"it is no pickle of tensors ({error})") from error


class _Reader:
    """Goes through the opcodes of a pickle."""

    def __init__(self) -> None:
        self._stack: list[Size] = []
        self._marks: list[int] = []
        self._memo: dict[int, Size] = {}

    def read(self, data: bytes) -> None:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number > MOST_OPCODES:
                raise StepMaskError(f"it has more than {MOST_OPCODES:,} parts")
            self._do(opcode.name, argument)
            if self._stack and (self._stack[-1].count > MOST_VALUES or self._stack[-1].depth > MOST_DEPTH):
                raise StepMaskError(
                    f"it has values of more than {MOST_VALUES:,} parts, or more than {MOST_DEPTH} within each other"
                )

    def _do(self, name: str, argument: object) -> None:
        if name in ("PROTO", "FRAME", "STOP"):
            return
        if name == "MARK":
            self._marks.append(len(self._stack))
        elif name in GETS:
            self._stack.append(self._memo[int(argument)])
        elif name in PUTS:
            self._memo[int(argument)] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in MARKED:
            self._take(len(self._stack) - self._marks.pop(), into=name in ("APPENDS", "SETITEMS"))
        elif name in COUNTED:
            self._take(COUNTED[name], into=not name.startswith("TUPLE"))
        elif name == "POP":
            self._stack.pop()
        elif name == "BINPERSID":
            self._stack[-1] = ONE
        elif name == "GLOBAL":
            if not GLOBALS.fullmatch(str(argument)):
                raise StepMaskError(f"it names {str(argument)!r:.80}")
            self._stack.append(ONE)
        elif name in ALONE:
            self._stack.append(ONE)
        else:
            raise StepMaskError(f"it holds {name}")

    def _take(self, count: int, into: bool) -> None:
        """Make one value of the latest ones, and of the one before where they go into that."""
        count += into
        if count > len(self._stack):
            raise StepMaskError("it takes more than it has")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        self._stack.append(Size(1 + sum(one.count for one in taken), 1 + max((one.depth for one in taken), default=0)))
