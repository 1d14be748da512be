"""How BudCache moves key steps: a random one while annealing, all near ones while climbing. Knows no models.

The first quarter of the key steps is the first steps of the run, and stays.
"""

from __future__ import annotations

import numpy as np

WINDOW, JUMPS = 3, 2
SINGLE, NEAR = 0.9, 0.7
"""Shares of moves of one key step, and of those to within the window."""

Steps = tuple[int, ...]


def prefix(count: int) -> int:
    """How many of the first steps always compute."""
    return max(1, count // 4)


def drawn(num_rows: int, count: int, generator: np.random.Generator) -> Steps:
    """Random key steps."""
    fixed = prefix(count)
    return (*range(fixed), *sorted((fixed + generator.permutation(num_rows - fixed)[: count - fixed]).tolist()))


def moved(steps: Steps, num_rows: int, generator: np.random.Generator) -> Steps:
    """One key step moved, mostly to near by; seldom two."""
    fixed = prefix(len(steps))
    movable = [step for step in steps if step >= fixed]
    free = [step for step in range(fixed, num_rows) if step not in steps]
    if not movable or not free:
        return steps
    if generator.random() < SINGLE or min(len(movable), len(free)) < 2:
        source = movable[generator.integers(len(movable))]
        near = [step for step in free if abs(step - source) <= WINDOW] if generator.random() < NEAR else []
        targets = near or free
        return _replaced(steps, [source], [targets[generator.integers(len(targets))]])
    sources, targets = (generator.permutation(some)[:2].tolist() for some in (movable, free))
    return _replaced(steps, sources, targets)


def neighbours(steps: Steps, num_rows: int, generator: np.random.Generator) -> list[Steps]:
    """All with one key step moved within the window, and for each key step two with a random jump."""
    fixed = prefix(len(steps))
    found = []
    for source in steps:
        if source >= fixed:
            near = range(max(fixed, source - WINDOW), min(num_rows - 1, source + WINDOW) + 1)
            far = generator.integers(fixed, num_rows, JUMPS).tolist()
            found += [_replaced(steps, [source], [target]) for target in [*near, *far] if target not in steps]
    return list(dict.fromkeys(found))


def _replaced(steps: Steps, sources: list[int], targets: list[int]) -> Steps:
    return tuple(sorted({int(step) for step in steps} - set(sources) | {int(target) for target in targets}))
