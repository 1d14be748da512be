"""Clock: how long learning has taken, over all sessions, and whether there is time for one more measurement.

It stands still while an interrupted run goes through what it knows. Knows nothing of what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.processes import Processes

SECONDS, UP = "seconds", "seconds.up"
"""Where a checkpoint keeps how many there were, and of how many it is known that they were not enough."""


class TimeUpError(Exception):
    """There is no time for a measurement. Never seen by users: the search ends with what it has."""


def unlimited(gains: float) -> None:
    """Learning must go on in any case."""


class Clock:
    """Seconds of learning, of which there may be a limited number.

    Args:
        checkpoint: Keeps them between sessions.
        processes: Those that learn together; the first one's clock is that of all.
        most: Seconds that there are; None for as many as it takes.
        used: Seconds that a fresh run has taken before it came here.
    """

    def __init__(
        self, checkpoint: Checkpoint, processes: Processes, most: float | None = None, used: float = 0.0
    ) -> None:
        self._checkpoint, self._processes, self._most = checkpoint, processes, most
        self._before = checkpoint.values.get(SECONDS, used)
        self._began = None if checkpoint.resumed else time.perf_counter()
        self._since, self._asked = 0.0, 0.0
        self.reserve: Callable[[float], float | None] = unlimited
        """What the end of learning takes, if so many seconds of gains were learned before; None while there is none."""

    @property
    def used(self) -> float:
        """Seconds so far."""
        return self._before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def ask(self, seconds: float, gains: bool = False) -> None:
        """Call it before everything that is not known yet, with how long it takes, about; it may be to learn gains.

        Raises:
            TimeUpError: There is no time for it.
        """
        if self._began is None:
            self._began = time.perf_counter()
        if not self._asked:
            self._since = self.used
        reserve = None if self._most is None else self.reserve(seconds if gains else 0.0)
        if reserve is not None:
            values = self._checkpoint.values
            is_up = values.get(UP, 0.0) >= self._most
            if is_up or self._processes.of_first(lambda: self._is_over(seconds + reserve)):
                values[UP] = max(self._most, values.get(UP, 0.0))
                raise TimeUpError
        self._asked += seconds

    def _is_over(self, seconds: float) -> bool:
        """Whether there are fewer seconds left; they count for more where what was asked for so far has taken more."""
        slowness = max(1.0, (self.used - self._since) / self._asked) if self._asked else 1.0
        return self.used + slowness * seconds > self._most

    def save(self) -> None:
        """Keep what was measured, and how long it took."""
        self._checkpoint.values[SECONDS] = self.used
        self._checkpoint.save()
