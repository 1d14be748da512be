"""The clock of learning runs while something new is measured, over all sessions, and says when time is up."""

import contextlib
from types import SimpleNamespace

import pytest

from stepmask.learning import clock as module
from stepmask.learning.checkpoint import Checkpoint
from stepmask.learning.clock import Clock, TimeUpError
from stepmask.learning.effort import Effort
from stepmask.learning.processes import Processes


@pytest.fixture
def now(monkeypatch):
    """Seconds that tests let pass."""
    passed = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: passed[0]))
    return passed


def clock_of(path=None, **options) -> Clock:
    return Clock(Checkpoint(path, {}, Effort()), Processes(), **options)


def test_what_was_measured_before_takes_no_time(now, tmp_path):
    first = clock_of(tmp_path / "state", used=5.0)
    now[0] += 10
    first.save()
    now[0] += 1000  # lost with what was not saved
    second = clock_of(tmp_path / "state", used=99.0)
    now[0] += 7  # goes through what it knows
    assert second.used == 15
    second.ask(3.0)
    now[0] += 2
    assert second.used == 17


def test_it_leaves_time_for_the_end(now):
    clock = clock_of(most=100.0)
    now[0] = 60
    clock.reserve = lambda gains: max(0.0, 30.0 - gains)
    clock.ask(9.0)
    with pytest.raises(TimeUpError):
        clock.ask(11.0)
    clock = clock_of(most=100.0)
    clock.reserve, now[0] = (lambda gains: max(0.0, 30.0 - gains)), 120
    clock.ask(39.0, gains=True)
    clock = clock_of(most=100.0)
    clock.reserve, now[0] = (lambda gains: max(0.0, 30.0 - gains)), 180
    with pytest.raises(TimeUpError):
        clock.ask(41.0, gains=True)


def test_it_goes_on_until_there_is_something_to_end_with(now):
    clock = clock_of(most=100.0)
    now[0] = 150
    clock.ask(1.0)
    clock.reserve = lambda gains: 0.0
    with pytest.raises(TimeUpError):
        clock.ask(1.0)


@pytest.mark.parametrize("seconds", [15.0, 16.0])
def test_what_takes_longer_than_was_said_is_expected_to_go_on_so(seconds, now):
    clock = clock_of(most=100.0)
    clock.reserve = lambda gains: 0.0
    clock.ask(10.0)
    now[0] = 40
    with contextlib.nullcontext() if seconds == 15 else pytest.raises(TimeUpError):
        clock.ask(seconds)


def test_without_a_limit_there_is_always_time(now):
    clock = clock_of()
    clock.reserve = lambda gains: 1e9
    now[0] = 1e9
    clock.ask(1e9)
    assert clock.used == 1e9, "it counts all the same"


def test_what_was_not_enough_is_not_enough_again(now, tmp_path):
    for most, needed, enough in ((100.0, 10.0, False), (100.0, 1.0, False), (110.0, 10.0, True)):
        clock = clock_of(tmp_path / "state", most=most, used=95.0)
        clock.reserve = lambda gains: 0.0
        if enough:
            clock.ask(needed)
        else:
            with pytest.raises(TimeUpError):
                clock.ask(needed)
        clock.save()
