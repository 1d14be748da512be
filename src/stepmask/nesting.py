"""Which names of sites lie within which: ``blocks`` contains ``blocks.0``, and that ``blocks.0.attn``.

Pure names: masks, graphs and pictures nest by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence


def parents_of(names: Sequence[str]) -> tuple[int | None, ...]:
    """Per name the index of the innermost other name around it; None where there is none."""
    index = {name: i for i, name in enumerate(names)}
    return tuple(_parent(name, index) for name in names)


def _parent(name: str, index: dict[str, int]) -> int | None:
    while "." in name:
        name = name.rpartition(".")[0]
        if name in index:
            return index[name]
    return None


def outline(names: Sequence[str]) -> list[tuple[int, int]]:
    """Indices with how many names contain each: in order, but for names that come before those that they contain."""
    parents = parents_of(names)
    found: dict[int, int] = {}
    for i in range(len(names)):
        path: list[int] = [i]
        while (around := parents[path[-1]]) is not None:
            path.append(around)
        for level, index in enumerate(reversed(path)):
            found.setdefault(index, level)
    return list(found.items())


def within(names: Sequence[str]) -> dict[int, int]:
    """For each name that contains others: those, one bit for each, however deep; outermost names first."""
    parents = parents_of(names)
    found: dict[int, int] = {}
    for i in range(len(names)):
        around = parents[i]
        while around is not None:
            found[around] = found.get(around, 0) | 1 << i
            around = parents[around]
    return dict(sorted(found.items(), key=lambda item: names[item[0]].count(".")))


def innermost(names: Sequence[str]) -> list[str]:
    """The names that contain no others, in order."""
    outer = within(names)
    return [name for i, name in enumerate(names) if i not in outer]


def without_what_rests(row: int, contained: dict[int, int]) -> int:
    """A row of bits without those that lie within a name whose bit is not set.

    Args:
        row: Which sites a mask lets compute, bit i for site i.
        contained: As `within` returns it.
    """
    for outer, inside in contained.items():
        if not row >> outer & 1:
            row &= ~inside
    return row


def inside_of(row: int, contained: dict[int, int]) -> int:
    """All that lies within the names whose bit is set."""
    found = 0
    for outer, inside in contained.items():
        found |= inside if row >> outer & 1 else 0
    return found


def around(row: int, contained: dict[int, int]) -> int:
    """A row of bits with those of all names that contain one whose bit is set."""
    for outer, inside in contained.items():
        if row & inside:
            row |= 1 << outer
    return row
