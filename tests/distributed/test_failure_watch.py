"""One process, when another announces its end; and with which code it ends itself."""

import threading

import jax
import pytest

from timix_jax.distributed import failure_watch, processes
from timix_jax.errors import RunError, UserError


class Store:
    """Where process 1 has announced its end, if it has."""

    def __init__(self, announced="1 1 no space left"):
        self.announced = announced

    def key_value_try_get(self, key):
        if not self.announced:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self.announced

    def key_value_set(self, key, value):
        self.announced = self.announced or value


@pytest.fixture
def said(monkeypatch):
    """What the watcher prints, and with which code it ends the process."""
    seen = []
    monkeypatch.setattr(failure_watch, "_leaving", threading.Event())
    monkeypatch.setattr(failure_watch, "_POLL_S", 0.001)
    monkeypatch.setattr(failure_watch, "print_error", lambda text, process: seen.append(text))
    monkeypatch.setattr(
        failure_watch,
        "_exit",
        lambda store, me, code: (seen.append(code), failure_watch._leaving.set()),
    )
    return seen


def test_who_waits_for_ever_ends_with_the_others_cause(monkeypatch, said):
    monkeypatch.setattr(failure_watch, "_GRACE_S", 0.01)
    failure_watch._watch(Store())
    assert said == ["process 1 has stopped: no space left", 1]


def test_a_coordinator_that_is_silent_is_named(monkeypatch, said):
    lines = []
    told = threading.Event()
    monkeypatch.setattr(failure_watch, "_SILENT_S", 0.2)
    monkeypatch.setattr(
        failure_watch.logging,
        "warning",
        lambda text, *values: (lines.append(text % values), told.set()),
    )

    class Silent:
        answers = 0

        def key_value_try_get(self, key):
            if self.answers == 3:
                assert told.wait(30)
                failure_watch._leaving.set()
            self.answers += 1
            raise jax.errors.JaxRuntimeError("NOT_FOUND")

    failure_watch._watch(Silent())
    (line,) = lines
    assert line.startswith("process 0 has not answered process 0 for 0 s")
    assert said == []


MISTAKE, FAULT, OTHER = UserError("lr=-1"), RunError("disk full"), ZeroDivisionError()


@pytest.mark.parametrize(
    ("announced", "error", "code"),
    [
        ("", MISTAKE, 2),
        ("", FAULT, 1),
        ("", OTHER, 1),
        ("1 1 no space left", FAULT, 1),
        ("1 1 no space left", MISTAKE, 2),
        ("1 1 no space left", OTHER, 1),
        ("1 2 lr=-1", FAULT, 2),
        ("1 2 lr=-1", OTHER, 2),
    ],
)
def test_only_a_mistake_somewhere_ends_with_code_2(monkeypatch, said, announced, error, code):
    monkeypatch.setattr(processes, "store", lambda: Store(announced))
    monkeypatch.setattr(failure_watch, "_POLL_S", 60)  # the watcher stays out of it
    with failure_watch.shared_fate():
        raise error
    assert said[-1] == code


def test_who_finds_the_cause_itself_is_left_alone(monkeypatch, said):
    monkeypatch.setattr(failure_watch, "_GRACE_S", 60)
    watcher = threading.Thread(target=failure_watch._watch, args=(Store(),), daemon=True)
    watcher.start()
    watcher.join(0.1)  # it has heard of the other's end
    failure_watch._leaving.set()
    watcher.join(10)
    assert not watcher.is_alive()
    assert said == []
