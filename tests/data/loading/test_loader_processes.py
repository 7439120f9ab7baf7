"""Batches made by processes: equality with threads, and deaths of a process or of the caller."""

import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from absl import logging
from listed_sources import (
    ListSource,
    flat_source,
    shapes_source,
    skipped_by_source,
    small_iterators,
    take,
    tokenizer_of,
)

from timix_jax.data.loading.corrupt_examples import CorruptExamples
from timix_jax.errors import USER_ERROR_CODE, RunError, UserError


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(shapes_source())


@pytest.fixture
def open_train(tokenizer):
    """Yield `make_train_iterator` with small defaults and two processes."""
    with small_iterators(tokenizer, num_processes=2) as start:
        yield start


def flat_arrays(batch):
    regions = batch.pop("regions", {})
    return {**batch, **{f"regions/{name}": value for name, value in regions.items()}}


def worker_pids(iterator):
    return [process.pid for process in iterator._processes._processes]


def is_running(pid):
    if os.path.isdir("/proc/self"):  # where zombies can be recognized
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class UnpicklableSource(ListSource):
    """A source that cannot be sent to another process."""

    def __init__(self):
        super().__init__(flat_source(16).records, "locked")
        self.held = (i for i in range(3))


class FailingSource(ListSource):
    """A source that raises an unexpected error."""

    def __init__(self):
        super().__init__(flat_source(16).records, "failing")

    def __getitem__(self, index):
        raise KeyError("no such bucket")


class WorkerOnlySource(ListSource):
    """A source that checks that it is read in a worker process without devices."""

    def __init__(self):
        super().__init__(flat_source(16).records, "reporting")

    def __getitem__(self, index):
        assert sys.modules["__main__"].__spec__.name == "timix_jax.data.loading.loader_processes"
        backends = sys.modules.get("jax._src.xla_bridge")
        assert not getattr(backends, "_backends", {}), "a loader process holds devices"
        return super().__getitem__(index)


@pytest.mark.parametrize("weights", [pytest.param(None, marks=pytest.mark.slow), (2.0, 1.0)])
def test_processes_make_the_same_batches_as_threads(open_train, weights):
    sources = [shapes_source(), flat_source(24)]
    options = {"weights": weights, "region_batch_size": 4, "region_max_tokens": 5, "start_step": 3}
    processes = open_train(sources, **options)
    threads = open_train(sources, num_processes=0, **options)
    for step in [3, 4, 5, 6, 40, 41]:
        if step == 40:
            processes.seek(40)
            threads.seek(40)
        assert processes.state == threads.state == {"next_index": step}
        found, expected = flat_arrays(next(processes)), flat_arrays(next(threads))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"step {step} {name}")
            assert found[name].dtype == value.dtype
            assert found[name].flags.writeable


def test_corrupt_examples_are_counted_once_across_processes(open_train, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    iterator = open_train([flat_source(24, "photos", bad=(3, 7, 20)), flat_source(8, "plain")])
    for _ in range(3 * 4):  # three epochs, so that both processes find all of them
        assert not set(next(iterator)["example_id"].tolist()) & {3, 7, 20}
    assert skipped_by_source(iterator) == {"photos": 3}
    assert sorted(line.split("far): ")[1].split(":")[0] for line in lines) == [
        "photos-20",
        "photos-3",
        "photos-7",
    ]


@pytest.mark.slow
def test_a_process_knows_of_no_devices(open_train):
    next(open_train([WorkerOnlySource()]))


def ignores(pid, sent):
    (mask,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (sent - 1) & 1)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads ignored signals from /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_ignore_termination_signals(open_train, sent):
    iterator = open_train([shapes_source()])
    next(iterator)
    # The first batch may arrive before the second process has started.
    until = time.monotonic() + 60
    while not all(ignores(pid, sent) for pid in worker_pids(iterator)):
        assert time.monotonic() < until
        time.sleep(0.05)
    for pid in worker_pids(iterator):
        os.kill(pid, sent)
    take(iterator, 20)


@pytest.mark.slow
def test_killed_worker_is_reported_at_once(open_train):
    iterator = open_train([shapes_source()])
    next(iterator)
    for pid in worker_pids(iterator):
        os.kill(pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(RunError, match=r"ended with code -9 .*config\.data\.processes"):
        take(iterator, 20)  # some batches are already made
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_unexpected_error_keeps_its_name_and_traceback(open_train, capfd):
    iterator = open_train([FailingSource()])
    with pytest.raises(RunError, match=r"batch of step 1: KeyError: 'no such bucket'") as caught:
        next(iterator)
    notes = "".join(getattr(caught.value.__cause__, "__notes__", ()))
    assert "in a loader process" in notes
    assert "in __getitem__" in notes


def test_user_error_keeps_its_type(open_train):
    with pytest.raises(UserError, match="photos: 8 examples in a row are corrupt") as caught:
        next(open_train([flat_source(8, "photos", bad=range(8))]))
    assert caught.value.exit_code == USER_ERROR_CODE


def test_unpicklable_source_is_reported(open_train):
    with pytest.raises(UserError, match=r"processes=2: .*cannot be sent.*generator.*processes=0"):
        open_train([UnpicklableSource()])


@pytest.mark.slow
def test_close_stops_the_processes(open_train):
    iterator = open_train([shapes_source()])
    next(iterator)
    pids = worker_pids(iterator)
    assert len(pids) == 2
    iterator.close()
    assert not any(map(is_running, pids))


def test_no_process_runs_before_the_first_batch_or_after_close(open_train):
    iterator = open_train([shapes_source()])
    assert not worker_pids(iterator)
    iterator.close()
    with pytest.raises(RunError, match="were closed"):
        iterator._processes.make(0)
    assert not worker_pids(iterator)


@pytest.mark.slow
def test_workers_end_when_the_caller_is_killed():
    program = textwrap.dedent("""
        import time
        from absl import flags
        flags.FLAGS.mark_as_parsed()
        from listed_sources import shapes_source, tokenizer_of
        from timix_jax.data.images.augment import Augment
        from timix_jax.data.loading.pipeline import make_train_iterator
        iterator = make_train_iterator(
            [shapes_source()], batch_size=8, image_size=16, max_tokens=12, tokenizer=tokenizer_of(shapes_source()),
            seed=0, augment=Augment(), num_processes=2,
        )
        next(iterator)
        print(*(process.pid for process in iterator._processes._processes), flush=True)
        time.sleep(600)
    """)
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    caller = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    try:
        pids = [int(pid) for pid in caller.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
    finally:
        caller.kill()
        caller.wait()
        caller.stdout.close()
    deadline = time.monotonic() + 30
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "the workers outlived their caller"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["an index", "half of the data set"])
def test_worker_of_a_dead_caller_exits_quietly(sent):
    payload = cloudpickle.dumps(([np.zeros(1 << 20)], CorruptExamples()))
    requests = struct.pack("<Q", len(payload)) + payload
    requests = requests + struct.pack("<Q", 0) if sent == "an index" else requests[:1000]
    process = subprocess.Popen(
        [sys.executable, "-m", "timix_jax.data.loading.loader_processes"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    process.stdout.close()  # as when the caller is killed
    process.stdout = None
    _, messages = process.communicate(requests, timeout=120)
    assert messages == b""
    assert process.returncode == 0
