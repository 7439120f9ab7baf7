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
    """Build a mesh with the axes `data`, `fsdp` and `tensor` over all devices, or those given.

    Args:
      data, fsdp, tensor: sizes of the axes; one may be -1, for all remaining devices.

    Raises:
      UserError: the product of the sizes is not the number of devices.
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
            f"mesh {text}: needs {fixed} devices, but there are {len(devices)}; set one of them to -1 "
            f"or make their product {len(devices)}"
        )
    shape = tuple(sizes.values())
    # Without splitting physical axes, fsdp=2, tensor=2 does not fit a torus of 4 x 4 chips.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    # Flax modules do not support explicit axes, the default.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding that splits the leading (batch) axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that keeps an array whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Return the number of parts into which a batch is split."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def own_rows(mesh: Mesh, rows: int, process: int | None = None) -> np.ndarray:
    """Return the rows of a global batch that the devices of a process hold, ascending, int (b,).

    On a TPU slice they are not contiguous, because the mesh follows the torus and not the hosts. Processes whose
    devices differ only along `tensor` hold the same rows.

    Args:
      mesh: the mesh over the devices of all processes.
      rows: number of rows of the global batch.
      process: index of the process; None for this one.
    """
    shard_rows = rows // batch_shards(mesh)
    shards = _own_shards(mesh, jax.process_index() if process is None else process)
    return (shards[:, None] * shard_rows + np.arange(shard_rows)).reshape(-1)


def _own_shards(mesh: Mesh, process: int) -> np.ndarray:
    """Return the parts of the batch that the devices of a process hold, ascending."""
    devices = mesh.devices.reshape(batch_shards(mesh), -1)  # the batch axes come first
    return np.array(
        [n for n, row in enumerate(devices) if any(d.process_index == process for d in row)]
    )


def check_batch_size(batch_size: int, mesh: Mesh, field: str = "batch_size") -> None:
    """Raise a UserError unless a global batch of this size divides evenly over the mesh."""
    shards = batch_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        below = batch_size // shards * shards
        nearest = f"{below} or {below + shards}" if below > 0 else f"{shards}"
        raise UserError(
            f"{field}={batch_size}: does not divide over {shards} devices "
            f"(data={mesh.shape['data']} × fsdp={mesh.shape['fsdp']}); use {nearest}"
        )


def put_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Turn this process's part of a batch into one global array per field, with its leading axis over the mesh.

    Args:
      batch: (nested) dict of NumPy arrays (b, ...), the `own_rows` of the global batch.

    Returns:
      The same dict of `jax.Array` (global batch, ...); 64-bit numbers become 32-bit unless x64
      is enabled.

    Raises:
      UserError: a field's global batch does not divide over the devices, or a field holds integers that
        do not fit in 32 bits.
    """
    sharding, shards = batch_sharding(mesh), batch_shards(mesh)
    own = _own_shards(mesh, jax.process_index())
    position = {int(shard): n for n, shard in enumerate(own)}

    def put(name: str, local: np.ndarray) -> jax.Array:
        if local.ndim == 0:
            raise UserError(
                f"batch field {name!r}: a scalar; every field needs a leading batch axis"
            )
        rows = local.shape[0] * shards // len(own)
        check_batch_size(rows, mesh, field=f"batch size of {name!r}")
        _check_integers(name, local)
        shard_rows = rows // shards

        def part(index: Any) -> np.ndarray:
            first = position[(index[0].start or 0) // shard_rows] * shard_rows
            return local[first : first + shard_rows]

        return jax.make_array_from_callback((rows, *local.shape[1:]), sharding, part)

    return map_with_names(put, batch)


def _check_integers(name: str, local: np.ndarray) -> None:
    """Refuse integers that JAX would silently narrow: an id of 2³¹ or more would become negative."""
    if local.dtype.kind not in "iu" or local.dtype.itemsize <= 4 or not local.size:
        return
    narrow = np.iinfo(jax.dtypes.canonicalize_dtype(local.dtype))
    if local.min() < narrow.min or local.max() > narrow.max:
        raise UserError(
            f"batch field {name!r}: {local.max()} does not fit in {narrow.dtype}; enable "
            "jax_enable_x64 or number the examples from 0"
        )
