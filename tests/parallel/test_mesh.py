"""The mesh over eight fake devices and how batches are split over it."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from timix_jax.errors import UserError
from timix_jax.parallel.mesh import (
    batch_sharding,
    batch_shards,
    check_batch_size,
    make_mesh,
    own_rows,
    put_batch,
    replicated,
)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 1, "fsdp": -1}, (1, 8, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ],
)
def test_shapes(sizes, shape):
    mesh = make_mesh(**sizes)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_mesh_over_some_of_the_devices():
    assert make_mesh(jax.devices()[:1]).size == 1
    assert make_mesh(jax.devices()[:4], fsdp=2).shape["data"] == 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "data=3.*needs 3 devices, but there are 8"),
        ({"fsdp": 3}, "8 devices are not a multiple of 3"),
        ({"data": 16}, "needs 16 devices"),
        ({"data": -1, "fsdp": -1}, "at most one"),
        ({"tensor": 0}, "at least 1"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(**sizes)


def test_put_batch_splits_the_leading_axis():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert batch_shards(mesh) == 4
    batch = {
        "image": np.arange(16 * 3, dtype=np.uint8).reshape(16, 3),
        "regions": {"mask": np.ones((4, 2), bool)},
    }
    placed = put_batch(batch, mesh)
    np.testing.assert_array_equal(placed["image"], batch["image"])
    np.testing.assert_array_equal(placed["regions"]["mask"], batch["regions"]["mask"])
    assert placed["image"].dtype == np.uint8
    assert {shard.data.shape for shard in placed["image"].addressable_shards} == {(4, 3)}
    assert placed["image"].sharding.is_equivalent_to(batch_sharding(mesh), 2)


class Chip:
    def __init__(self, process_index):
        self.process_index = process_index


class MeshOfProcesses:
    """Stand-in for a mesh that records only the process of each device."""

    def __init__(self, processes):
        self.devices = np.vectorize(Chip, otypes=[object])(np.array(processes))
        self.shape = dict(zip(("data", "fsdp", "tensor"), self.devices.shape, strict=True))


@pytest.mark.parametrize(
    ("processes", "rows"),
    [
        ([[[0]], [[0]], [[1]], [[1]]], {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}),
        ([[[0]], [[1]], [[0]], [[1]]], {0: [0, 1, 4, 5], 1: [2, 3, 6, 7]}),  # not one block
        ([[[0, 1]], [[0, 1]]], {0: list(range(8)), 1: list(range(8))}),  # tensor over both
        ([[[0, 0], [1, 1]], [[1, 1], [0, 0]]], {0: [0, 1, 6, 7], 1: [2, 3, 4, 5]}),
    ],
)
def test_rows_of_a_process_follow_the_mesh(processes, rows):
    for process, expected in rows.items():
        assert own_rows(MeshOfProcesses(processes), 8, process).tolist() == expected


def test_rows_of_a_tpu_slice_match_the_sharding():
    pytest.importorskip("libtpu")
    from timix_jax.inspection.topology import slice_devices

    devices = slice_devices("v6e:4x4")
    for fsdp, tensor in ((1, 1), (2, 2), (1, 8), (4, 4)):
        mesh = make_mesh(devices, fsdp=fsdp, tensor=tensor)
        expected = {}
        for device, index in batch_sharding(mesh).devices_indices_map((64,)).items():
            rows = range(64)[index[0]]
            expected.setdefault(device.process_index, set()).update(rows)
        assert len(expected) == 4
        for process, rows in expected.items():
            assert own_rows(mesh, 64, process).tolist() == sorted(rows)


def test_replicated():
    array = jax.device_put(np.ones((3, 2)), replicated(make_mesh()))
    assert array.is_fully_replicated


def test_batch_that_does_not_divide():
    mesh = make_mesh()
    check_batch_size(64, mesh)
    with pytest.raises(UserError, match=r"data\.batch_size=100: .*8 devices.*use 96 or 104"):
        check_batch_size(100, mesh, field="data.batch_size")
    with pytest.raises(UserError, match=r"=4: .*use 8$"):
        check_batch_size(4, mesh)
    with pytest.raises(UserError, match="'regions/mask'=6"):
        put_batch({"image": np.ones((8, 2)), "regions": {"mask": np.ones((6, 2))}}, mesh)
    with pytest.raises(UserError, match=r"'step'.*leading batch axis"):
        put_batch({"step": np.array(3)}, mesh)


def test_integers_are_never_narrowed_silently():
    mesh = make_mesh()
    ids = np.arange(8, dtype=np.int64)
    placed = put_batch({"example_id": ids}, mesh)["example_id"]
    np.testing.assert_array_equal(placed, ids)
    with pytest.raises(UserError, match=r"'example_id': 2147483655 does not fit in int32"):
        put_batch({"example_id": ids + 2**31}, mesh)
