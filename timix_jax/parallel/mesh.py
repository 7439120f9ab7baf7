"""The device mesh and the batch on it."""

from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from timix_jax.errors import UserError
from timix_jax.parallel.paths import map_with_names

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(
    devices: list[jax.Device] | None = None, *, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> Mesh:
    """A mesh with the axes `data`, `fsdp` and `tensor` over all devices (or those given).

    Args:
        data, fsdp, tensor: sizes of the axes; one may be -1, "the devices that are left".

    Raises:
        UserError: the sizes don't multiply to the number of devices.
    """
    devices = list(jax.devices()) if devices is None else list(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 for axis, size in sizes.items() if axis not in free):
        raise UserError(f"mesh {text}: sizes must be at least 1, and at most one of them -1")
    fixed = int(np.prod([size for axis, size in sizes.items() if axis not in free]))
    if free:
        if len(devices) % fixed:
            raise UserError(
                f"mesh {text}: {len(devices)} devices are not a multiple of {fixed}; choose sizes "
                f"that divide {len(devices)}"
            )
        sizes[free[0]] = len(devices) // fixed
    elif fixed != len(devices):
        raise UserError(
            f"mesh {text}: needs {fixed} devices, there are {len(devices)}; set one of them to -1 "
            f"or make their product {len(devices)}"
        )
    shape = tuple(sizes.values())
    # Without splitting, a torus of 4 x 4 chips has no place for fsdp=2, tensor=2.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    # Explicit axes, the default, are not understood by Flax modules.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis over `data` and `fsdp`; everything else whole on each device."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is cut."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def own_rows(mesh: Mesh, rows: int, process: int | None = None) -> np.ndarray:
    """Which rows of a global batch lie on the devices of a process, ascending, int (b,).

    On a TPU slice they are no block: the mesh follows the torus, not the hosts. Processes that share the parts of one
    tensor hold the same rows.

    Args:
        mesh: of all devices.
        rows: of the global batch.
        process: its index; None for this one.
    """
    each = rows // batch_shards(mesh)
    shards = _own_shards(mesh, jax.process_index() if process is None else process)
    return (shards[:, None] * each + np.arange(each)).reshape(-1)


def _own_shards(mesh: Mesh, process: int) -> np.ndarray:
    """The parts of the batch on the devices of a process, ascending."""
    places = mesh.devices.reshape(batch_shards(mesh), -1)  # the batch axes are the first
    return np.array(
        [n for n, row in enumerate(places) if any(d.process_index == process for d in row)]
    )


def check_batch_size(batch_size: int, mesh: Mesh, field: str = "batch_size") -> None:
    """Raises a UserError unless a global batch of this size can be cut evenly over the mesh."""
    shards = batch_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        below = batch_size // shards * shards
        nearest = f"{below} or {below + shards}" if below > 0 else f"{shards}"
        raise UserError(
            f"{field}={batch_size}: does not divide over {shards} devices "
            f"(data={mesh.shape['data']} × fsdp={mesh.shape['fsdp']}); use {nearest}"
        )


def put_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """This process's part of the batch as one global array a field, its leading axis over the mesh.

    Args:
        batch: (nested) dict of NumPy arrays (b, ...), the `own_rows` of the global batch.

    Returns:
        The same dict of `jax.Array` (global batch, ...); 64-bit numbers become 32-bit unless x64
        is on.

    Raises:
        UserError: a field's global batch does not divide over the devices, or holds integers that
            don't fit in 32 bits.
    """
    sharding, shards = batch_sharding(mesh), batch_shards(mesh)
    own = _own_shards(mesh, jax.process_index())
    place = {int(shard): n for n, shard in enumerate(own)}

    def put(name: str, local: np.ndarray) -> jax.Array:
        if local.ndim == 0:
            raise UserError(f"batch field {name!r}: a scalar; each needs a leading batch axis")
        rows = local.shape[0] * shards // len(own)
        check_batch_size(rows, mesh, field=f"batch size of {name!r}")
        _check_integers(name, local)
        each = rows // shards

        def part(index: Any) -> np.ndarray:
            first = place[(index[0].start or 0) // each] * each
            return local[first : first + each]

        return jax.make_array_from_callback((rows, *local.shape[1:]), sharding, part)

    return map_with_names(put, batch)


def _check_integers(name: str, local: np.ndarray) -> None:
    """JAX narrows 64-bit integers without a word: an id above 2³¹ would come out negative."""
    if local.dtype.kind not in "iu" or local.dtype.itemsize <= 4 or not local.size:
        return
    narrow = np.iinfo(jax.dtypes.canonicalize_dtype(local.dtype))
    if local.min() < narrow.min or local.max() > narrow.max:
        raise UserError(
            f"batch field {name!r}: {local.max()} does not fit in {narrow.dtype}; turn on "
            "jax_enable_x64 or number the examples from 0"
        )
