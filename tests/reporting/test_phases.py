"""Phases and their stalls by a clock that the test moves, and the thread that watches them."""

import logging
import threading
from pathlib import Path

import pytest

import timix_jax
from timix_jax.reporting import phases
from timix_jax.reporting.phases import Phase, Phases
from timix_jax.reporting.watchdog import Watchdog, watched_phases

SLOW = Phase("waiting for the first batch", 60, "look at the storage")


class FakeClock:
    """Seconds that pass only when told."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def watch(clock, lines):
    return Phases(clock=clock, log=lines.append)


def test_one_line_per_phase(watch, clock, lines):
    with watch(SLOW):
        clock.now += 2.34
    with watch(phases.FIRST_STEP) as phase:
        clock.now += 61
        phase.detail = "compile cache: miss"
    with watch(phases.CONNECT) as phase:
        phase.quiet = True
    with watch(phases.DATA):
        clock.now += 1
    assert lines == [
        "waiting for the first batch: 2.3 s",
        "compiling and taking the first step: 61.0 s (compile cache: miss)",
    ]


def test_a_phase_that_fails_has_no_line_and_is_over(watch, clock, lines):
    def fail():
        with watch(SLOW):
            raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        fail()
    clock.now += 1000
    assert lines == []
    assert watch.stall() is None


def test_a_phase_that_takes_long(watch, clock):
    warned = []
    dog = Watchdog(watch, warn=warned.append)
    with watch(SLOW):
        looks = []
        for _ in range(60):  # every 5 s for 300 s
            clock.now += 5
            dog.check()
            looks.append(len(warned))
    # At 60 s, at 120 s and at 240 s.
    assert [looks.index(n) * 5 + 5 for n in (1, 2, 3)] == [60, 120, 240]
    assert warned[0].startswith("still waiting for the first batch after 60 s: look at the storage")
    dog.check()
    assert warned[-1] == "going on, after more than 240 s"
    dog.check()
    assert len(warned) == 4


def step(watch, clock, number, seconds):
    with watch(phases.DATA):
        clock.now += seconds / 2
    with watch(phases.STEP):
        clock.now += seconds / 2
    watch.step_done(number)


def test_steps_that_stop(watch, clock):
    for number in range(1, 20):
        step(watch, clock, number, 0.5)
    with watch(phases.DATA):
        clock.now += 119
        assert watch.stall() is None
        clock.now += 1
        stall = watch.stall()
    assert stall.text == "no step for 120 s (the last was 19); last phase: waiting for data"
    assert stall.seconds == 120
    with watch(phases.STEP):
        clock.now += 5
        # Still the same wait, in another phase.
        assert watch.stall().key == stall.key
        assert watch.stall().text.endswith("last phase: waiting for the devices")
    watch.step_done(20)
    assert watch.stall() is None
    clock.now += 10_000
    assert watch.stall().text.startswith("no step for 10000 s (the last was 20)")
    watch.end_steps()
    assert watch.stall() is None


def test_slow_steps_are_judged_by_their_pace(watch, clock):
    for number in range(1, 30):
        step(watch, clock, number, 60)
    clock.now += 599
    assert watch.stall() is None
    clock.now += 1
    assert watch.stall() is not None


def test_an_evaluation_between_steps_does_not_count_as_a_stall(watch, clock, lines):
    for number in range(1, 30):
        step(watch, clock, number, 1)
        with watch(phases.EVALUATE):
            clock.now += 1000
            assert watch.stall() is None
    clock.now += 119.9
    assert watch.stall() is None
    clock.now += 0.2  # had the evaluations counted as steps, it would be 10,000 s
    assert watch.stall().seconds == pytest.approx(120.1)
    assert len(lines) == 29


def test_no_stall_before_the_first_step(watch, clock):
    clock.now += 10_000
    assert watch.stall() is None


def test_the_thread_warns_and_goes_with_its_context(watch, clock):
    warned, told = [], threading.Event()

    def warn(text):
        warned.append(text)
        told.set()

    threads = threading.active_count()
    with Watchdog(watch, every_s=0.001, warn=warn), watch(SLOW):
        clock.now += 75
        assert told.wait(20)
    assert threading.active_count() == threads
    assert warned[0].startswith("still waiting for the first batch after 75 s: ")


def test_it_stops_when_the_watched_fail():
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), watched_phases() as watch, watch(SLOW):
        raise ZeroDivisionError
    assert threading.active_count() == threads


def test_the_line_says_where_the_watched_thread_is(watch, clock, monkeypatch):
    """The watched code claims to be in a file of the package."""
    warned = []
    dog = Watchdog(watch, warn=warned.append)
    file = str(Path(timix_jax.__file__).parent / "data" / "reader.py")
    scope = {"dog": dog}
    exec(compile("\n\ndef read():\n    dog.check()\n", file, "exec"), scope)
    with watch(SLOW):
        clock.now += 60
        scope["read"]()
    assert warned == [f"still {SLOW.name} after 60 s: {SLOW.hint} [data/reader.py:4]"]


def test_lines_reach_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="absl"), watched_phases() as watch, watch(SLOW):
        pass
    assert [r.getMessage() for r in caplog.records] == ["waiting for the first batch: 0.0 s"]
