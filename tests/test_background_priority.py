"""Loader threads and saves stand behind the computation, and nothing else does."""

import os
import sys
import threading

import jax.numpy as jnp
import pytest
from listed_sources import ListSource, flat_source, tokenizer_of

from timix_jax.background_priority import LOADER, SAVE, give_way
from timix_jax.checkpointing import Checkpointer, checkpointer
from timix_jax.data.augment import Augment
from timix_jax.data.pipeline import make_train_iterator

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


@pytest.mark.parametrize("threads", [0, 2])
def test_only_loader_threads_give_way(threads):
    before, source = own_niceness(), WatchedSource()
    iterator = make_train_iterator(
        [source], batch_size=4, image_size=16, max_tokens=8, tokenizer=tokenizer_of(flat_source(1)),
        seed=0, augment=Augment(crop_min=1.0, flip=False), num_threads=threads,
    )  # fmt: skip
    try:
        for _ in range(4):
            next(iterator)
    finally:
        iterator.close()
    others = {thread: n for thread, n in source.seen.items() if thread != threading.get_native_id()}
    assert own_niceness() == before
    # Without threads of its own the loader works in the caller's, which keeps its priority.
    assert set(others.values()) == ({max(before, LOADER)} if threads else set())
    assert bool(others) == bool(threads)


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


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_a_save_gives_way_and_its_caller_does_not(tmp_path, monkeypatch, backend):
    before, found = own_niceness(), []
    monkeypatch.setattr(checkpointer.jax, "default_backend", lambda: backend)
    start = checkpointer.ocp.save_checkpointables_async

    def watched(*args, **kwargs):
        found.append((own_niceness(), os.sched_getscheduler(0)))
        return start(*args, **kwargs)

    monkeypatch.setattr(checkpointer.ocp, "save_checkpointables_async", watched)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        saved.save(1, {"weights": jnp.ones(3)}, {})
        assert own_niceness() == before
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
        saved.wait()
        assert saved.latest_valid() == 1
    # Steps on a CPU leave gaps only; an accelerator's host has cores to spare.
    assert found == [(max(before, SAVE), os.SCHED_IDLE if backend == "cpu" else os.SCHED_OTHER)]
