"""The watcher of one process, when another announces its end."""

import threading

import pytest

from timix_jax import failure_watch


class Store:
    """Where process 1 has announced its end."""

    def key_value_try_get(self, key):
        return "1 2 no space left"


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
    assert said == ["process 1 has stopped: no space left", 2]


def test_who_finds_the_cause_itself_is_left_alone(monkeypatch, said):
    monkeypatch.setattr(failure_watch, "_GRACE_S", 60)
    watcher = threading.Thread(target=failure_watch._watch, args=(Store(),), daemon=True)
    watcher.start()
    watcher.join(0.1)  # it has heard of the other's end
    failure_watch._leaving.set()
    watcher.join(10)
    assert not watcher.is_alive()
    assert said == []
