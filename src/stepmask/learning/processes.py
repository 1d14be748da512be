"""Several processes that learn together: each measures on some of the images, and all take the same decisions.

Processes that ``torchrun`` or ``accelerate launch`` started, or that are in a group of ``torch.distributed``, make the
same search. What takes time is shared out image by image, and every process gets to know what the others found, so
that none goes another way. The first one alone reads and writes files and talks. Messages go through gloo, from host
to host, whatever the denoisers run on. Knows nothing of masks and of what is measured.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from stepmask.errors import StepMaskError

MEETING = timedelta(minutes=10)
"""How long processes wait for those that have not begun to learn."""

PATIENCE = timedelta(days=1)
"""How long they wait for one that is busy. That one has ended is noticed at once; this is for one that hangs."""

GO_ON = (
    "what was measured until the last round is in the file that resume names, if one was given, and the same call goes "
    "on from there, with any number of processes"
)
"""What to do where learning has broken off."""

Part = TypeVar("Part")
Found = TypeVar("Found")


class LostProcessError(StepMaskError):
    """A process that should learn together with this one has not come, has ended without a word, or hangs."""


class Processes:
    """The processes that learn together, as one of them sees them; by default it is alone.

    Every method is called by all of them, in the same order.

    Args:
        number: The number of this process, from 0.
        count: How many there are.
        group: Their group of ``torch.distributed``, whose backend is gloo.

    Attributes:
        calls: Denoiser calls that `Effort` counted so far, of the others too where they were shared out.
    """

    def __init__(self, number: int = 0, count: int = 1, group: Any = None) -> None:
        self.number, self.count, self._group = number, count, group
        self.calls = 0
        self._over = False

    @property
    def is_first(self) -> bool:
        """Whether this process reads and writes the files, and says how it goes."""
        return self.number == 0

    def share(self, what: str, run: Callable[[Part], Found], parts: Iterable[Part]) -> list[Found]:
        """What `run` makes of each part, in their order: this process runs some of them, and all get to know all.

        Args:
            what: Tells this work from all other; the same in all processes.
            run: What is run on each part; what it returns goes through pickle, and holds tensors of the host alone.
            parts: The same in all processes.

        Raises:
            StepMaskError: This or another process raised it, so all raise it, and may go on together; or another one
                does other work.
        """
        parts, before, mine, error = list(parts), self.calls, [], None
        try:
            mine = [run(part) for part in parts[self.number :: self.count]]
        except StepMaskError as raised:
            if self.count == 1:
                raise
            error = raised
        everyone = self._exchange((what, mine, self.calls - before), error)
        if any(theirs != what for theirs, _, _ in everyone):
            raise StepMaskError(
                f"process {self.number} of {self.count} measures {what} where others measure something else: start all "
                "of them with the same arguments, on machines of one kind"
            )
        self.calls = before + sum(calls for _, _, calls in everyone)
        found: list[Any] = [None] * len(parts)
        for number, (_, theirs, _) in enumerate(everyone):
            found[number :: self.count] = theirs
        return found

    def gather(self, value: Found) -> list[Found]:
        """The values of all processes, in their order.

        Raises:
            StepMaskError: Another process raised it.
            LostProcessError: Another process has ended, or hangs.
        """
        return self._exchange(value)

    def of_first(self, make: Callable[[], Found]) -> Found:
        """What `make` returns in the first process, which runs it as if it were alone; the others wait.

        Raises:
            StepMaskError: The first process raised it.
        """
        if self.count == 1:
            return make()
        made = None
        if self.is_first:
            with _as_current(Processes()):
                made = make()
        self.gather(None)  # an error arrives here
        box = [made]
        self._talk(lambda dist: dist.broadcast_object_list(box, 0, group=self._group))
        return box[0]

    def check_agreement(self, facts: Mapping[str, Any]) -> None:
        """Raise unless all processes have the same facts, by name.

        Raises:
            StepMaskError: Names those that differ.
        """
        first, *others = self.gather(dict(facts))
        for number, theirs in enumerate(others, 1):
            differ = [name for name in {**first, **theirs} if first.get(name) != theirs.get(name)]
            if differ:
                raise StepMaskError(
                    f"processes 0 and {number} cannot learn together, because {' and '.join(differ)} differ: start all "
                    "of them with the same arguments, or each by itself"
                )

    def end(self, error: BaseException | None = None) -> None:
        """Wait for the others to end too; with an error, end them with it, unless all know of it already."""
        if error is None:
            self._exchange(None, over=True)
        elif not self._over:
            with contextlib.suppress(StepMaskError, KeyboardInterrupt):
                self._exchange(None, self._told(error), over=True)

    def _told(self, error: BaseException) -> BaseException:
        """The error as the others raise it: what a user can mend as it is, an interrupt too."""
        if isinstance(error, StepMaskError | KeyboardInterrupt):
            return error
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return StepMaskError(f"process {self.number} of the {self.count} that learn together ended with {text}")

    def _exchange(self, value: Any, error: BaseException | None = None, over: bool = False) -> list[Any]:
        """The values of all; the first error of any is raised in all. Nothing is exchanged after one that is over."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        self._talk(lambda dist: dist.all_gather_object(found, (value, error, over), group=self._group))
        self._over = any(over for _, _, over in found)
        for _, error, _ in found:
            if error is not None:
                raise error
        return [value for value, _, _ in found]

    def _talk(self, call: Callable[[Any], None]) -> None:
        import torch.distributed as dist

        try:
            with _undivided():
                call(dist)
        except RuntimeError as error:
            self._over = True
            raise LostProcessError(
                f"one of the {self.count} processes that learn together has ended or hangs: {GO_ON}"
            ) from error


_current: Processes | None = None
_meetings = itertools.count()
_store: Any = None


def current() -> Processes:
    """The processes that learn together now; outside of `together` this one alone."""
    return _current or Processes()


def launched() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are, by ``torch.distributed`` or what its launchers say.

    Imports nothing.
    """
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    names = "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
    if not all(os.environ.get(name) for name in names):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def num_on_this_machine() -> int:
    """How many processes of the launch there are on this machine, as its launcher says; 1 where it does not."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if launched()[1] > 1 else 1


def is_first_to_say(what: str) -> bool:
    """Whether no other process has asked this before; where none can be asked any more, each says it."""
    try:
        return _store is None or _store.add(f"stepmask/said/{what}", 1) == 1
    except RuntimeError:
        return True


@contextlib.contextmanager
def together() -> Iterator[Processes]:
    """Meet the other processes for a while: what is learned meanwhile is shared out; an error in one ends all.

    Within itself it does nothing, and neither where there is one process.

    Raises:
        StepMaskError: Another process raised it.
        LostProcessError: Another process did not come, has ended, or hangs.
    """
    number, total = launched()
    if _current is not None or total == 1:
        yield current()
        return
    with _connected(number, total) as group, _as_current(Processes(number, total, group)) as processes:
        try:
            yield processes
        except BaseException as error:
            processes.end(error)
            raise
        processes.end()


@contextlib.contextmanager
def _as_current(processes: Processes) -> Iterator[Processes]:
    global _current
    before, _current = _current, processes
    try:
        yield processes
    finally:
        _current = before


@contextlib.contextmanager
def _connected(number: int, total: int) -> Iterator[Any]:
    """A group of gloo for a while: beside that of the user, or from what the launcher says."""
    import torch.distributed as dist

    groups = []
    try:
        if dist.is_initialized():
            groups.append(dist.new_group(backend="gloo", timeout=MEETING))  # when all have come
            groups.append(dist.new_group(backend="gloo", timeout=PATIENCE))
        else:
            store = _meet(number, total)
            dist.init_process_group("gloo", store=store, rank=number, world_size=total, timeout=PATIENCE)
            groups.append(dist.group.WORLD)
    except RuntimeError as error:
        raise LostProcessError(
            f"not all of the {total} processes that were started have begun to learn within "
            f"{MEETING.total_seconds() / 60:g} minutes: call learn in each of them, with the same arguments, or in a "
            "program of one process"
        ) from error
    try:
        yield groups[-1]
    finally:
        for group in groups:
            dist.destroy_process_group(group)


def _meet(number: int, total: int) -> Any:
    """A store for one group, when all have come. The launcher's own is kept: it may be this process that serves it."""
    global _store
    import torch.distributed as dist

    if _store is None:
        _store = next(dist.rendezvous("env://", timeout=MEETING))[0]
    store = dist.PrefixStore(f"stepmask/{next(_meetings)}", _store)
    store.set(f"here/{number}", "")
    store.wait([f"here/{one}" for one in range(total)], MEETING)
    return store


@contextlib.contextmanager
def _undivided() -> Iterator[None]:
    """Let an interrupt wait until all processes have done what they do together: halfway, the next would fail."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if seen:
        raise KeyboardInterrupt
