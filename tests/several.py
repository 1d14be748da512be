"""Processes that learn together: what runs in each of them, started as ``torchrun`` starts its own.

They are forked from a server that has imported everything, so that each is there in a moment.
"""

import contextlib
import io
import itertools
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from stepmask import StepMask, StepMaskError, fit_gains, learn, schedules
from stepmask.cli import app
from stepmask.learning import clock, processes
from stepmask.learning.end_to_end import learner
from stepmask.learning.end_to_end.judge import Judge
from stepmask.runtime.task import Task
from tiny import ddim_pipeline, dit_pipeline

STEPS, TARGET = 3, 0.7
SEARCH = {
    "rounds": 0, "gains": 2, "num_probes": 3, "num_validation": 3, "num_held_back": 2, "num_moves": 0, "shrink": 0.5,
    "images_per_call": 1, "progress": False, "coarse": False,
}  # fmt: skip
LONG = 120
"""Seconds that nothing here takes, on the slowest machine."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["several"])


class Started:
    """As many processes as wanted, each of which runs `work(*arguments)`; they meet where this one serves."""

    def __init__(self, count: int, work: Callable[..., Any], *arguments: Any) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.running, self._ends = [], []
        for number in range(count):
            mine, theirs = _context.Pipe(duplex=False)
            launch = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": self._store.port}
            launch |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": True}
            process = _context.Process(target=_run, args=(theirs, launch, work, arguments), daemon=True)
            with _found_by_the_server():
                process.start()
            theirs.close()
            self.running.append(process)
            self._ends.append(mine)

    def results(self) -> list[Any]:
        """What each came to."""
        return [self.result(number) for number in range(len(self.running))]

    def result(self, number: int) -> Any:
        """What one returned; what it raised where it raised, None where it was killed."""
        assert self._ends[number].poll(LONG), "it hangs"
        try:
            return self._ends[number].recv()
        except EOFError:
            return None

    def kill(self) -> None:
        """End those that have not ended."""
        for process in self.running:
            process.kill()


def _run(end: Any, launch: dict[str, Any], work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {name: str(value) for name, value in launch.items()}
    try:
        found = work(*arguments)
    except BaseException as error:
        found = error
    end.send(found)


@contextlib.contextmanager
def _found_by_the_server() -> Iterator[None]:
    """Tell the server, which begins with the first process, where this file is: it ignores what it cannot import."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def number() -> int:
    """Of this process."""
    return int(os.environ["RANK"])


def fail(*_: Any) -> Any:
    raise ValueError("a bug")


# --- what they do


def search(**options: Any) -> StepMask:
    """The search that all tests compare with."""
    return learn(ddim_pipeline(), **{"num_inference_steps": STEPS, "target_macs": TARGET, **SEARCH, **options})


def search_on(path: str) -> StepMask:
    return search(resume=path)


def search_in_time(path: str) -> StepMask:
    """Time is up after a while, by the clock of the first one; that of the others stands still."""
    now = itertools.count()
    clock.time = SimpleNamespace(perf_counter=lambda: 0 if number() else 2.0 * next(now))
    learner.measured_pace = lambda *_: {"forth": [1e-3, 0.0], "back": [1e-3, 0.0]}
    return search(resume=path, max_minutes=0.4)


def search_and_die(who: int, path: str) -> StepMask:
    """One of them is killed when it has kept its measurements for the third time."""
    times, save = itertools.count(1), Judge.save

    def save_and_die(judge: Judge) -> None:
        save(judge)
        if number() == who and next(times) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    Judge.save = save_and_die
    return search(resume=path)


def fail_in_turns() -> list[str]:
    """One of them fails in the midst of it, as a user can mend, as a bug does, by an interrupt; what each raised."""
    seen = []
    for who, error in ((1, StepMaskError("mend it")), (1, ValueError("a bug")), (0, KeyboardInterrupt())):
        try:
            with processes.together() as all_of_them:
                if number() == who:
                    raise error
                all_of_them.gather(None)
        except BaseException as raised:
            seen.append(f"{type(raised).__name__}: {raised}")
    return seen


def fail_and_go_on() -> tuple[str, list[int]]:
    """The first one alone has work, which cannot be done; then there is more."""

    def refuse(part: int) -> int:
        raise StepMaskError(f"no {part}")

    with processes.together() as all_of_them:
        try:
            all_of_them.share("work", refuse, range(1))
        except StepMaskError as error:
            return str(error), all_of_them.share("more", lambda part: 10 * part, range(3))


def refused_in_turns() -> list[StepMaskError]:
    """What can be refused before anything runs."""
    seen = []
    for options in ({"target_macs": 0.01}, {"seed": number(), "target_macs": TARGET + 0.1 * number()}):
        try:
            search(**options)
        except StepMaskError as error:
            seen.append(error)
    return seen


def one_hangs(patience: float) -> None:
    processes.PATIENCE = timedelta(seconds=patience)
    with processes.together() as all_of_them:
        if number():
            time.sleep(LONG)
        all_of_them.gather(None)


def one_comes(meeting: float) -> None:
    processes.MEETING = timedelta(seconds=meeting)
    if number():
        time.sleep(LONG)
    with processes.together():
        pass


def in_a_group_of_their_own(port: int) -> list[Any]:
    """One after the other, in a group that was there before and is there after; the first one serves it."""
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo")
    reports: list[Any] = []
    quick = {"num_inference_steps": STEPS, "target_macs": TARGET, "progress": False}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        papers = learn(
            dit_pipeline(), method="paper", num_trajectories=2, batch_size=1, callback=reports.append, **quick
        )
    schedule = schedules.key_steps(dit_pipeline(), 4, 2, forecast="linear")
    fitted = fit_gains(dit_pipeline(), schedule, iterations=2)
    if number():  # latencies are those of the first
        costs = Task.timed_costs
        Task.timed_costs = lambda task, batch_size: fail() if batch_size else costs(task, None)
    fast = search(
        target_macs=None, target_speedup=1.2, images_per_call=None, gains=0, rounds=0, callback=reports.append
    )
    total = torch.ones(1)
    dist.all_reduce(total)
    shares = [str(one.message) for one in seen if "share" in str(one.message)]
    return [papers, fitted, fast, len(reports), shares, total.item()]


def command(*arguments: str) -> tuple[int, str, str]:
    """A verb of the command line: exit code, what it prints, and what it says."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(list(arguments))
        except SystemExit as error:
            return error.code, out.getvalue(), err.getvalue()


def command_and_die(*arguments: str) -> tuple[int, str, str]:
    """The same, where the first one is killed and the launcher tells the others to end."""
    times, save = itertools.count(1), Judge.save

    def save_and_die(judge: Judge) -> None:
        save(judge)
        if next(times) == 1:
            os.kill(os.getpid(), signal.SIGTERM if number() else signal.SIGKILL)

    Judge.save = save_and_die
    return command(*arguments)
