"""Each batch is sent to the devices before the previous step runs."""

import jax
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.parallel.device_batches import DeviceBatches
from timix_jax.parallel.mesh import batch_sharding, make_mesh


class Numbered:
    """Yield endless batches of 8 rows that hold the batch's number; `taken` counts them."""

    taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        rows = np.full((8, 2), self.taken, np.float32)
        ids = np.arange(8) + 8 * self.taken
        self.taken += 1
        return {"image": rows, "regions": {"mask": rows > 0}, "example_id": ids}


def test_batches_come_in_order_with_their_examples():
    mesh = make_mesh()
    seen = list(DeviceBatches(Numbered(), mesh, 5))
    assert len(seen) == 5
    for number, (ids, batch) in enumerate(seen):
        np.testing.assert_array_equal(ids, np.arange(8) + 8 * number)
        assert set(batch) == {"image", "regions"}
        assert batch["image"].sharding == batch_sharding(mesh)
        np.testing.assert_array_equal(batch["image"], np.full((8, 2), number))
        np.testing.assert_array_equal(batch["regions"]["mask"], np.full((8, 2), number > 0))


def test_batches_run_one_ahead_after_the_first_and_stop_at_the_count():
    source = Numbered()
    ahead = DeviceBatches(source, make_mesh(), 4)
    taken = []
    for _ in ahead:
        taken.append(source.taken)
    assert taken == [1, 3, 4, 4]


def test_each_transfer_starts_before_the_previous_step(monkeypatch):
    order = []

    def put(batch, mesh):
        order.append(f"send {int(batch['image'][0, 0])}")
        return batch

    monkeypatch.setattr("timix_jax.parallel.device_batches.put_batch", put)
    for step, _ in enumerate(DeviceBatches(Numbered(), make_mesh(), 4)):
        order.append(f"step {step}")
    assert order == [
        *("send 0", "step 0", "send 1", "send 2", "step 1"),
        *("send 3", "step 2", "step 3"),
    ]


def test_a_batch_that_does_not_divide_is_refused():
    def batches():
        yield {"image": np.zeros((6, 2)), "example_id": np.arange(6)}

    with pytest.raises(UserError, match="batch size of 'image'"):
        next(DeviceBatches(batches(), make_mesh(), 1))


def test_zero_steps_read_no_batches():
    source = Numbered()
    assert list(DeviceBatches(source, make_mesh(jax.devices()[:1]), 0)) == []
    assert source.taken == 0
