"""Damaged and unfinished checkpoints are named and skipped; a failed save names its cause."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax.numpy as jnp
import pytest
from checkpoint_states import abstract, assert_same, make_state, two_checkpoints

from timix_jax import checkpointing
from timix_jax.checkpointing import Checkpointer, checksums, step_folders
from timix_jax.errors import RunError, UserError


@pytest.fixture
def warnings_of(monkeypatch):
    """Collect the warnings of `step_folders`."""
    texts: list[str] = []
    monkeypatch.setattr(
        step_folders.logging, "warning", lambda text, *values: texts.append(text % values)
    )
    return texts


def test_flipped_byte_in_any_file_is_named_and_previous_step_is_used(tmp_path, warnings_of):
    newest = two_checkpoints(tmp_path)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    names = {path.relative_to(newest).as_posix() for path in files}
    assert any(name.startswith("state/d/") for name in names)
    assert {"_CHECKPOINT_METADATA", "CHECKSUMS.json", "state/manifest.ocdbt"} <= names
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_valid() == 2
        for path in files:
            data = path.read_bytes()
            for place in {0, len(data) // 2, len(data) - 1} if data else {0}:
                harmed = bytearray(data or b"\0")
                harmed[place] ^= 0x10
                path.write_bytes(harmed)
                warnings_of.clear()
                assert checkpointer.latest_valid() == 1, path
                assert f"00000002 is not used: {path.relative_to(newest)}" in warnings_of[0]
                assert "00000001 is used instead" in warnings_of[-1]
            path.write_bytes(data)
        assert checkpointer.latest_valid() == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: os.truncate(max(f.rglob("d/*"), key=os.path.getsize), 99), "(truncated)"),
        (lambda f: next(f.rglob("d/*")).unlink(), ": missing"),
        (lambda f: (f / "CHECKSUMS.json").unlink(), "CHECKSUMS.json is missing"),
        (lambda f: os.truncate(f / "CHECKSUMS.json", 0), "CHECKSUMS.json: unreadable"),
        (lambda f: (shutil.rmtree(f), f.mkdir()), "the folder is empty"),
        (lambda f: f.rename(f"{f}.orbax-checkpoint-tmp"), "tmp is not used: the save was not"),
        (lambda f: f.with_name("00000003").mkdir(), "00000003 is not used: the folder is empty"),
    ],
)
def test_damaged_newest_step_is_named_and_replaced_by_the_next_save(
    tmp_path, warnings_of, damage, said
):
    damage(two_checkpoints(tmp_path))
    left = 2 if "00000003" in said else 1
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_valid() == left
        assert said in warnings_of[0]
        state, meta = checkpointer.restore(left, abstract(make_state()))
        assert_same(state, make_state(seed=left))
        assert meta == {"step": left}
        checkpointer.save(3, make_state(seed=3), {})
        checkpointer.wait()
        warnings_of.clear()
        assert checkpointer.latest_valid() == 3
    assert not warnings_of
    assert sorted(os.listdir(tmp_path)) == [f"0000000{left}", "00000003"]


def test_damaged_checkpoint_is_not_restored_and_its_step_is_saved_again(tmp_path):
    newest = two_checkpoints(tmp_path)
    victim = max(newest.rglob("d/*"), key=os.path.getsize)
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(UserError, match=victim.name):
        checkpointer.restore(2, abstract(make_state()))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_valid() == 1
        checkpointer.save(2, make_state(seed=22), {})
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_valid() == 2
        assert_same(checkpointer.restore(2, abstract(make_state()))[0], make_state(seed=22))


def test_all_damaged_is_an_error_but_an_interrupted_first_save_is_a_fresh_start(
    tmp_path, warnings_of
):
    newest = two_checkpoints(tmp_path)
    for folder in (newest, tmp_path / "00000001"):
        os.truncate(folder / "_CHECKPOINT_METADATA", 5)
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(UserError, match=r"damaged \(00000002: _CHECKPOINT.*; 00000001: _CHECKPOINT"),
    ):
        checkpointer.latest_valid()
    for folder in (newest, tmp_path / "00000001"):
        (folder / checksums.MANIFEST_FILE).unlink()
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_valid() is None
    assert "00000001 is not used: CHECKSUMS.json is missing" in warnings_of[-1]


def test_nothing_is_deleted_before_the_newer_step_is_complete(tmp_path, monkeypatch):
    seen = []
    write = checksums.write_manifest

    def watched(folder):
        seen.append(step_folders.complete_steps(step_folders.epath.Path(tmp_path)))
        write(folder)

    monkeypatch.setattr(checksums, "write_manifest", watched)
    with Checkpointer(tmp_path, keep_last=1) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"x": jnp.zeros(4)}, {})
    assert seen == [[], [1], [2]]


@pytest.mark.parametrize("call", ["save", "wait", "close", "latest_valid"])
def test_failed_background_save_raises_at_the_next_call(tmp_path, monkeypatch, call):
    state = {"x": jnp.zeros(4)}
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, {})
    checkpointer.wait()

    def no_space(folder):
        raise OSError(28, "No space left on device", os.fspath(folder))

    with monkeypatch.context() as patch:
        patch.setattr(checksums, "write_manifest", no_space)
        checkpointer.save(2, state, {})
        arguments = (3, state, {}) if call == "save" else ()
        with pytest.raises(RunError, match=r"checkpoint 2 .*No space left.* bytes are free"):
            getattr(checkpointer, call)(*arguments)
    assert os.listdir(tmp_path) == ["00000001"]
    if call != "close":
        checkpointer.save(3, state, {})
        checkpointer.close()
        assert sorted(os.listdir(tmp_path)) == ["00000001", "00000003"]


def test_save_that_cannot_start_names_the_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with (
        Checkpointer(tmp_path / "checkpoints") as checkpointer,
        pytest.raises(RunError, match=r"checkpoint 1 could not be saved to .*checkpoints/0*1: "),
    ):
        checkpointer.save(1, {"x": jnp.zeros(4)}, {})


_WRITER = """
    import resource, sys
    import jax, jax.numpy as jnp, numpy as np
    from absl import logging
    from timix_jax.checkpointing import Checkpointer
    from timix_jax.errors import UserError

    folder, size, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if len(sys.argv) > 4:  # simulates a full disk: limits the file size
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)

    def state_of(step):
        return {"w": jnp.asarray(np.random.default_rng(step).standard_normal(size, np.float32))}

    abstract = {"w": jax.ShapeDtypeStruct(
        (size,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))}
    with Checkpointer(folder) as checkpointer:
        step = checkpointer.latest_valid() or 0
        if step:
            state, meta = checkpointer.restore(step, abstract)
            assert meta == {"step": step}, meta
            np.testing.assert_array_equal(state["w"], state_of(step)["w"])
        print("ready", step, flush=True)
        try:
            for step in range(step + 1, step + 1 + steps):
                checkpointer.save(step, state_of(step), {"step": step})
                if step > 1:
                    print("complete", step - 1, flush=True)
            checkpointer.wait()
        except UserError as error:
            sys.exit(f"UserError: {error}")
"""


def start_writer(folder: pathlib.Path, *arguments: int) -> subprocess.Popen:
    root = pathlib.Path(checkpointing.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WRITER), str(folder), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_kill_at_any_time_leaves_the_last_complete_checkpoint(tmp_path):
    rng = random.Random(0)
    complete = 0
    for lines in (0, 2, 0, 1, 0, 3):  # some kills before the first save is complete, some after
        writer = start_writer(tmp_path, 200_000, 10_000)
        assert writer.stdout.readline() == f"ready {complete}\n", writer.stderr.read()
        seen = "".join(writer.stdout.readline() for _ in range(lines))
        time.sleep(rng.uniform(0.0, 0.4))
        writer.send_signal(signal.SIGKILL)
        printed = seen + writer.communicate()[0]
        promised = [int(line.split()[1]) for line in printed.splitlines() if line.count(" ") == 1]
        with Checkpointer(tmp_path) as checkpointer:
            left = checkpointer.latest_valid() or 0
        assert left >= max([complete, *promised])
        assert len(os.listdir(tmp_path)) <= 5  # two kept, one old, one new, one temporary
        complete = left
    assert complete > 0
    writer = start_writer(tmp_path, 200_000, 1)
    printed, errors = writer.communicate()
    assert printed.startswith(f"ready {complete}\n"), errors
    assert writer.returncode == 0


@pytest.mark.slow
def test_full_disk_is_reported_with_path_and_free_bytes(tmp_path):
    writer = start_writer(tmp_path / "run", 100_000, 3, 100_000)
    _, errors = writer.communicate(timeout=60)
    assert writer.returncode == 1
    message = errors.strip().splitlines()[-1]
    assert message.startswith(f"UserError: checkpoint 1 could not be saved to {tmp_path}/run/0")
    assert "too large" in message
    assert "the state takes 400,000 bytes, " in message
    assert "bytes are free there" in message
    assert not os.listdir(tmp_path / "run")
