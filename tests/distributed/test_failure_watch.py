"""Reaction of a process to the failure of another, and the exit code of each."""

import threading

import jax
import pytest

from timix_jax.distributed import failure_watch, processes
from timix_jax.errors import RunError, UserError


class Store:
    """A key-value store in which process 1 has announced its failure, or nobody has."""

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
    """Record what the watcher prints, and the code with which it ends the process."""
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


def test_waiting_process_ends_with_the_cause_of_the_other(monkeypatch, said):
    monkeypatch.setattr(failure_watch, "_GRACE_S", 0.01)
    failure_watch._watch(Store())
    assert said == ["process 1 has stopped: no space left", 1]


def test_silent_coordinator_is_named(monkeypatch, said):
    lines = []
    warned = threading.Event()
    monkeypatch.setattr(failure_watch, "_SILENT_S", 0.2)
    monkeypatch.setattr(
        failure_watch.logging,
        "warning",
        lambda text, *values: (lines.append(text % values), warned.set()),
    )

    class Silent:
        answers = 0

        def key_value_try_get(self, key):
            if self.answers == 3:
                assert warned.wait(30)
                failure_watch._leaving.set()
            self.answers += 1
            raise jax.errors.JaxRuntimeError("NOT_FOUND")

    failure_watch._watch(Silent())
    (line,) = lines
    assert line.startswith("process 0 has not answered process 0 for 0 s")
    assert said == []


USER_ERROR, RUNTIME_ERROR, OTHER = UserError("lr=-1"), RunError("disk full"), ZeroDivisionError()


@pytest.mark.parametrize(
    ("announced", "error", "code"),
    [
        ("", USER_ERROR, 2),
        ("", RUNTIME_ERROR, 1),
        ("", OTHER, 1),
        ("1 1 no space left", RUNTIME_ERROR, 1),
        ("1 1 no space left", USER_ERROR, 2),
        ("1 1 no space left", OTHER, 1),
        ("1 2 lr=-1", RUNTIME_ERROR, 2),
        ("1 2 lr=-1", OTHER, 2),
    ],
)
def test_only_a_user_error_anywhere_ends_with_code_2(monkeypatch, said, announced, error, code):
    monkeypatch.setattr(processes, "store", lambda: Store(announced))
    monkeypatch.setattr(failure_watch, "_POLL_S", 60)  # the watcher does not interfere
    with failure_watch.shared_fate():
        raise error
    assert said[-1] == code


def test_process_that_finds_the_cause_itself_is_not_ended(monkeypatch, said):
    monkeypatch.setattr(failure_watch, "_GRACE_S", 60)
    watcher = threading.Thread(target=failure_watch._watch, args=(Store(),), daemon=True)
    watcher.start()
    watcher.join(0.1)  # it has learned of the other's failure
    failure_watch._leaving.set()
    watcher.join(10)
    assert not watcher.is_alive()
    assert said == []
