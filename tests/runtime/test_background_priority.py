"""Loader threads and saves stand behind the computation, and nothing else does."""

import os
import sys
import threading

import jax.numpy as jnp
import pytest
from listed_sources import ListSource, flat_source, tokenizer_of
from tiny_run import tiny_config

from timix_jax.checkpointing import Checkpointer, checkpointer, checksums
from timix_jax.data.images.augment import Augment
from timix_jax.data.loading.pipeline import make_train_iterator
from timix_jax.distributed.preemption import Preemption
from timix_jax.runtime.background_priority import (
    LOADER,
    SAVE,
    all_give_way,
    give_way,
    loader_niceness,
    stand_apart,
)
from timix_jax.training import build as experiment
from timix_jax.training.train import train_and_evaluate

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="threads have priorities of their own on Linux only"
)


def own_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


class WatchedSource(ListSource):
    """Notes the priority at which its records are read."""

    def __init__(self):
        super().__init__(flat_source(16).records)
        self.seen: dict[int, int] = {}

    def __getitem__(self, index):
        self.seen[threading.get_native_id()] = own_niceness()
        return super().__getitem__(index)


@pytest.mark.parametrize(("threads", "niceness"), [(0, LOADER), (2, LOADER), (2, 0)])
def test_only_loader_threads_give_way(threads, niceness):
    before, source = own_niceness(), WatchedSource()
    iterator = make_train_iterator(
        [source], batch_size=4, image_size=16, max_tokens=8, tokenizer=tokenizer_of(flat_source(1)),
        seed=0, augment=Augment(crop_min=1.0, flip=False), num_threads=threads,
        niceness=niceness,
    )  # fmt: skip
    try:
        for _ in range(4):
            next(iterator)
    finally:
        iterator.close()
    others = {thread: n for thread, n in source.seen.items() if thread != threading.get_native_id()}
    assert own_niceness() == before
    # Without threads of its own the loader works in the caller's, which keeps its priority.
    assert set(others.values()) == ({max(before, niceness)} if threads else set())
    assert bool(others) == bool(threads)


def test_the_loader_gives_way_to_steps_on_a_cpu_alone(monkeypatch):
    given = []
    run = experiment.build(tiny_config())
    monkeypatch.setattr(experiment.run, "make_train_iterator", lambda *_, **o: given.append(o))
    run.train_iterator(0)
    assert given[0]["niceness"] == LOADER == loader_niceness("cpu")
    assert loader_niceness("tpu") == loader_niceness("gpu") == 0


def test_a_thread_that_stands_further_back_stays_there():
    found = []

    def work():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
        give_way(LOADER)
        found.append(own_niceness())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [15]


@pytest.fixture
def watched_saves(tmp_path, monkeypatch):
    """A checkpointer, and the niceness at which each of its saves began and at which it ended."""
    found = []
    start, finish = checkpointer.ocp.save_checkpointables_async, checksums.write_manifest

    def watched_start(*args, **kwargs):
        found.append(own_niceness())
        return start(*args, **kwargs)

    def watched_finish(folder, rest):
        found.append(own_niceness())
        finish(folder, rest)

    monkeypatch.setattr(checkpointer.ocp, "save_checkpointables_async", watched_start)
    monkeypatch.setattr(checksums, "write_manifest", watched_finish)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        yield saved, found


STATE = {"weights": jnp.ones(3)}


def apart() -> int:
    """The niceness of a thread that stands apart."""
    found = []
    thread = threading.Thread(target=lambda: (stand_apart(), found.append(own_niceness())))
    thread.start()
    thread.join()
    assert found[0] - own_niceness() in (1, 2)
    return found[0]


def test_saves_give_way_once_nobody_waits_for_them(watched_saves):
    saved, found = watched_saves
    before = own_niceness()
    for step in (1, 2):
        saved.save(step, STATE, {})
        saved.wait()
    # One place back is all while `save` is waited for; the second save is no further back than the first.
    assert found == [apart(), SAVE] * 2
    assert own_niceness() == before
    assert saved.latest_valid() == 2


def test_a_save_that_is_waited_for_at_once_does_not_give_way(watched_saves):
    saved, found = watched_saves
    saved.save(1, STATE, {}, give_way=False)
    saved.wait()
    assert found == [apart()] * 2


def test_saves_that_are_waited_for_first_no_longer_rest_and_then_no_longer_give_way(
    watched_saves, monkeypatch
):
    saved, found = watched_saves
    begun, rested, write = threading.Event(), [], checksums.write_manifest

    def waiting(folder, rest):
        begun.wait()
        rested.append(rest is not None)
        write(folder, rest)

    with monkeypatch.context() as patch:
        patch.setattr(checksums, "write_manifest", waiting)
        wait = saved.wait
        patch.setattr(saved, "wait", lambda: (begun.set(), wait(), begun.clear()))
        for step in (1, 2, 3, 4):
            saved.save(step, STATE, {})
        saved.wait()
    assert rested == [True, False, False, False]
    assert found == [apart(), SAVE, apart(), SAVE, apart(), apart(), apart(), apart()]


@pytest.mark.usefixtures("fast_compilation")
@pytest.mark.parametrize("preempted", [False, True])
def test_the_last_save_of_a_training_keeps_its_priority(tmp_path, monkeypatch, preempted):
    given, save = {}, Checkpointer.save
    reached = lambda self, step: preempted and step == 3

    def watched(self, step, state, meta, **options):
        given[step] = options["give_way"]
        save(self, step, state, meta, **options)

    monkeypatch.setattr(Checkpointer, "save", watched)
    monkeypatch.setattr(Preemption, "reached", reached)
    options = {"mix__mixer": "none", "loss__pta__weight": 0.0, "eval__sets": ()}
    train_and_evaluate(tiny_config(4, **options), str(tmp_path / "run"))
    assert given == {2: True, 3 if preempted else 4: False}


def test_all_threads_that_a_thread_has_started_give_way_with_it():
    """And no other: neither the caller nor a loader thread."""
    before, end, found = own_niceness(), threading.Event(), {}

    def note(name):
        found[name] = own_niceness()

    def child():
        end.wait()
        note("child")

    def parent():
        apart.append(stand_apart())
        children.append(threading.Thread(target=child))
        children[0].start()
        started.set()
        end.wait()
        note("parent")

    def loader():
        give_way(LOADER)
        end.wait()
        note("loader")

    apart, children, started = [], [], threading.Event()
    others = [threading.Thread(target=target) for target in (parent, loader)]
    for thread in others:
        thread.start()
    started.wait()
    all_give_way(apart[0], SAVE)
    end.set()
    for thread in [*others, *children]:
        thread.join()
    assert found == {"child": SAVE, "parent": SAVE, "loader": max(before, LOADER)}
    assert own_niceness() == before


def test_a_sandbox_that_forbids_it_stops_nothing(watched_saves, monkeypatch):
    def forbidden(*_):
        raise PermissionError("not here")

    monkeypatch.setattr(os, "setpriority", forbidden)
    saved, found = watched_saves
    saved.save(1, STATE, {})
    saved.wait()
    assert saved.latest_valid() == 1
    assert found == [own_niceness()] * 2
