"""Failures of the machine under a running job: named, nothing lost before them, and resumed exactly."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import pytest
from compiler_flags import EIGHT_DEVICES
from process_runs import SMALL, compile_cache
from tiny_run import assert_same_run, metrics, tiny_config, write_config

from timix_jax.checkpointing import Checkpointer
from timix_jax.checkpointing.step_folders import complete_steps
from timix_jax.data.loading import corrupt_examples
from timix_jax.data.records.manifest import shard_name, write_manifest
from timix_jax.data.records.writer import RecordWriter
from timix_jax.data.sources.records import RecordSource
from timix_jax.data.sources.synthetic import open_synthetic
from timix_jax.errors import RunError, UserError
from timix_jax.training import train
from timix_jax.training.hooks.log import Log
from timix_jax.training.train import train_and_evaluate

STEPS = 12  # more than are read ahead
PARTS = ("params", "opt_state")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """48 examples in two shards."""
    folder = tmp_path_factory.mktemp("records")
    source = open_synthetic("", examples=48, size=16, captions=2)
    summaries = []
    for index in range(2):
        with RecordWriter(folder / shard_name("x", index, 2)) as writer:
            for row in range(24 * index, 24 * index + 24):
                writer.write(source[row])
        summaries.append(writer.summary)
    write_manifest(folder, "x", summaries)
    return folder


def config_of(shards, **more):
    options = {"data__train": (f"records:{shards}",), "eval__sets": ()}
    return tiny_config(STEPS, **(SMALL | options | more))


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train_and_evaluate(config_of(shards), str(workdir))
    return workdir


def after_log(patch, step, act):
    """Call `act` with the hook that logs once `step` steps are taken and logged."""
    log = Log.__call__

    def logged(self, moment):
        log(self, moment)
        if moment.step == step:
            act(self)

    patch.setattr(Log, "__call__", logged)


def latest(workdir):
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        return checkpointer.latest_valid()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid():
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_while_saving(whole, shards, small_disk, monkeypatch):
    workdir, filler = small_disk / "run", small_disk / "filler"
    checkpointers = []
    make = train.open_checkpointer

    def noted(*args, **options):
        checkpointers.append(make(*args, **options))
        return checkpointers[-1]

    def fill(log):
        (checkpointer,) = checkpointers
        checkpointer.wait()
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write_bytes(bytes(free - 6 * 4096))  # room for lines, not for a state

    with monkeypatch.context() as patch:
        patch.setattr(train, "open_checkpointer", noted)
        after_log(patch, 3, fill)
        with pytest.raises(RunError) as caught:
            train_and_evaluate(config_of(shards), str(workdir))
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        f"checkpoint 4 could not be saved to {workdir}/checkpoints/00000004",
        "bytes are fr",
    ):
        assert words in message
    assert "No space left" in message or "RESOURCE_EXHAUSTED" in message
    assert latest(workdir) == 2
    # Orbax's threads may leave parts of the broken one after it is deleted: the next save removes them.
    assert complete_steps(workdir / "checkpoints") == [2]
    filler.unlink()
    train_and_evaluate(config_of(shards), str(workdir))
    assert all(path.name.isdigit() for path in (workdir / "checkpoints").iterdir())
    assert_same_run(workdir, whole, STEPS, PARTS)


@pytest.mark.slow
def test_a_log_that_cannot_be_written(whole, shards, tmp_path, monkeypatch):
    workdir = tmp_path / "run"

    def fill(log):
        log.reporter.writer._file = open("/dev/full", "w")  # noqa: SIM115

    with monkeypatch.context() as patch:
        after_log(patch, 4, fill)
        with pytest.raises(UserError, match=r"metrics.jsonl cannot be written \(No space left"):
            train_and_evaluate(config_of(shards), str(workdir))
    assert latest(workdir) == 4
    train_and_evaluate(config_of(shards), str(workdir))
    assert_same_run(workdir, whole, STEPS, PARTS)


@pytest.mark.slow
def test_a_shard_that_is_truncated(whole, shards, tmp_path, monkeypatch):
    """The run continues with other examples and warns; started again, it refuses the data."""
    shard = shards / shard_name("x", 1, 2)
    content = shard.read_bytes()
    workdir = tmp_path / "run"
    warnings = []
    monkeypatch.setattr(
        corrupt_examples.logging, "warning", lambda text, *v: warnings.append(text % v)
    )
    try:
        with monkeypatch.context() as patch:
            after_log(patch, 2, lambda log: os.truncate(shard, 0))
            train_and_evaluate(config_of(shards), str(workdir))
        assert warnings
        assert (
            f"records:{shards}: corrupt example replaced by the next one (1 so far)" in warnings[0]
        )
        logged = [line for line in metrics(workdir) if "skipped_examples" in line]
        assert logged[1]["skipped_examples"] >= 0
        assert 0 < logged[-1]["skipped_examples"] <= 24
        assert logged[:2] == metrics(whole)[:2]
        with pytest.raises(UserError, match=r"00001-of-00002.*0 bytes, the manifest says"):
            train_and_evaluate(config_of(shards), str(tmp_path / "again"))
    finally:
        shard.write_bytes(content)


@pytest.mark.slow
def test_all_shards_are_gone(shards, tmp_path, monkeypatch):
    contents = {path: path.read_bytes() for path in shards.glob("*.array_record")}
    try:
        with monkeypatch.context() as patch:
            after_log(patch, 2, lambda log: [os.truncate(path, 0) for path in contents])
            with pytest.raises(
                UserError, match="48 examples in a row are corrupt, the last one is"
            ):
                train_and_evaluate(config_of(shards), str(tmp_path / "run"))
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert latest(tmp_path / "run") >= 2


@pytest.mark.slow
def test_a_reader_that_fails(whole, shards, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    read = RecordSource.__getitem__
    broken = []

    def fail(self, index):
        if broken:
            raise MemoryError("out of memory\nin two lines")
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(RecordSource, "__getitem__", fail)
        after_log(patch, 2, broken.append)
        with pytest.raises(RunError) as caught:
            train_and_evaluate(config_of(shards), str(workdir))
    message = str(caught.value)
    assert "the input pipeline stopped at the batch of step " in message
    assert "MemoryError: out of memory" in message
    assert "\n" not in message
    assert latest(workdir) >= 2
    train_and_evaluate(config_of(shards), str(workdir))
    assert_same_run(workdir, whole, STEPS, PARTS)


def test_the_folder_of_these_tests_is_not_shared_with_others():
    """A single process asks and writes nothing."""
    from timix_jax.distributed.shared_folder import check_same_config, check_shared

    assert jax.process_count() == 1
    check_shared(pathlib.Path("/nowhere/at/all"))
    check_same_config({"a": object()})


@pytest.mark.slow
def test_killed_at_any_moment(shards, whole, tmp_path):
    """kill -9 three times, at moments that every test run draws again: the result is the same."""
    workdir = tmp_path / "killed"
    options = {"data__train": (f"records:{shards}",), "eval__sets": ()}
    recipe = write_config(tmp_path / "recipe.py", steps=STEPS, **(SMALL | options))
    seed = random.randrange(2**32)
    print(f"moments drawn with seed {seed}")  # shown where the test fails
    moments = random.Random(seed)
    environment = {
        **os.environ,
        "XLA_FLAGS": EIGHT_DEVICES,
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [
        *(sys.executable, "-m", "timix_jax.main", f"--config={recipe}", f"--workdir={workdir}"),
        f"--compile_cache={compile_cache()}",
    ]
    kills = 0
    for lines in (1, 5, 10):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and logged_lines(workdir) < lines:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        kills += process.returncode == -signal.SIGKILL
    assert kills
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert_same_run(workdir, whole, STEPS, PARTS)


def logged_lines(workdir):
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
