"""A save that rests between its pieces: how long, until when, and that the arrays it has yet to write are safe."""

import functools
import itertools
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from timix_jax.checkpointing import Checkpointer, checksums, pace
from timix_jax.checkpointing.pace import Pace

SHAPES = {"a": (), "b": (64, 64), "c": (3,), "d": (512, 64), "e": (64, 64), "f": (64, 64)}


def make_state() -> dict[str, jax.Array]:
    return {
        name: jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
        for name, shape in SHAPES.items()
    }


ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make_state()
)


@functools.partial(jax.jit, donate_argnums=0)
def negative(state):
    return jax.tree.map(lambda x: -x - 1, state)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture
def rests(monkeypatch):
    """Seconds asked for by each rest, on a clock that stands still but for the rests and `clock.append`."""
    clock, asked = [100.0], []

    class Hurried(threading.Event):
        def wait(self, timeout=None):
            asked.append(timeout)
            clock.append(0.0 if self.is_set() else timeout)
            return self.is_set()

    # In this module alone: threads of other tests may still look at the clock.
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: sum(clock)))
    monkeypatch.setattr(pace, "threading", SimpleNamespace(Event=Hurried))
    return clock, asked


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ((0.5, 0.0, 2.0), [1.0, 0.0, 4.0]),
        ((20.0, 20.0, 20.0), [40.0, 20.0, 0.0]),  # a minute in all
    ],
)
def test_a_rest_is_twice_the_work_before_it_up_to_a_limit_for_all(rests, work, expected):
    clock, asked = rests
    own = Pace(60.0)
    for seconds in work:
        clock.append(seconds)
        own.rest()
    assert asked == expected


def test_what_was_hurried_over_does_not_count_as_rest(rests):
    clock, asked = rests
    own = Pace(60.0)
    own.hurry()
    for work in (20.0, 20.0):
        clock.append(work)
        own.rest()
    assert asked == [40.0, 40.0]  # both over at once


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pace, "_PIECE_BYTES", 40_000)


@pytest.mark.usefixtures("small_pieces")
def test_a_state_that_is_donated_between_two_pieces_is_saved_as_it_was(tmp_path, monkeypatch):
    resting, go_on = threading.Event(), threading.Event()

    def rest(self):
        resting.set()
        assert go_on.wait(60)

    monkeypatch.setattr(Pace, "rest", rest)
    state = make_state()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {"step": 1})
        assert resting.wait(60)
        for _ in range(3):
            state = negative(state)
        jax.block_until_ready(state)
        assert checkpointer.saving
        go_on.set()
        assert checkpointer.latest_valid() == 1
        restored, meta = checkpointer.restore(1, ABSTRACT)
    assert_equal(restored, make_state())
    assert meta == {"step": 1}


@pytest.mark.usefixtures("small_pieces")
def test_each_piece_and_each_file_summed_is_followed_by_a_rest(tmp_path, monkeypatch):
    files_at_rest = []

    def rest(self):
        found = [p for p in tmp_path.rglob("ocdbt.process_0/d/*") if p.stat().st_size > 1000]
        files_at_rest.append(len(found))

    monkeypatch.setattr(Pace, "rest", rest)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(), {})
    # Orbax calls once for each array: a alone (in the foreground), then b and c, d (more than a piece), e and f.
    assert files_at_rest[: len(SHAPES)] == [0, 1, 1, 2, 3, 3]
    assert len(files_at_rest) >= len(SHAPES) + 3  # a block of each file of data


@pytest.mark.parametrize("how", ["wait", "close", "save", "latest_valid", "error"])
def test_who_waits_for_a_save_ends_its_rests(tmp_path, monkeypatch, how):
    monkeypatch.setattr(pace, "_REST", 1e9)  # the first rest lasts as long as all may
    state, begin = make_state(), time.monotonic()
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, {})
    if how == "save":
        checkpointer.save(2, state, {})
        checkpointer.wait()
    elif how == "error":
        with pytest.raises(ZeroDivisionError), checkpointer:
            _ = 1 / 0
    else:
        getattr(checkpointer, how)()
    assert time.monotonic() - begin < 60  # a tenth of the time limit
    assert Checkpointer(tmp_path).latest_valid() == (2 if how == "save" else 1)


def test_a_save_that_does_not_give_way_does_not_rest(tmp_path, monkeypatch):
    monkeypatch.delattr(Pace, "rest")
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(), {}, give_way=False)
        assert checkpointer.latest_valid() == 1
        assert_equal(checkpointer.restore(1, ABSTRACT)[0], make_state())


def test_only_arrays_on_one_device_that_is_the_hosts_cores_are_written_in_pieces():
    class Device:
        platform = "tpu"

    class OnTpu:
        def devices(self):
            return {Device()}

    mesh = jax.make_mesh((2,), ("data",))
    on_two = jax.device_put(jnp.zeros(4), NamedSharding(mesh, P("data")))
    assert pace.shares_the_cores([jnp.zeros(3), jnp.zeros(4)])
    assert not pace.shares_the_cores([on_two])
    assert not pace.shares_the_cores([jnp.zeros(3), on_two])
    assert not pace.shares_the_cores([OnTpu(), OnTpu()])


def test_copies_have_memory_of_their_own():
    state = make_state()
    copies = pace.copied(state)
    for name, leaf in state.items():
        assert copies[name].sharding == leaf.sharding
        assert copies[name].unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()
    negative(state)
    assert_equal(copies, make_state())


def test_sums_with_rests_are_those_without(tmp_path):
    count = itertools.count()
    for name, size in (("a", 5 << 20), ("b", 10), ("c", 0)):
        (tmp_path / name).write_bytes(bytes(range(256)) * (size // 256 + 1))
    checksums.write_manifest(tmp_path)
    manifest = epath.Path(tmp_path / checksums.MANIFEST_FILE)
    text = manifest.read_text()
    manifest.unlink()
    checksums.write_manifest(tmp_path, lambda: next(count))
    assert manifest.read_text() == text
    assert next(count) == 4  # two blocks of a, one of b and of c
