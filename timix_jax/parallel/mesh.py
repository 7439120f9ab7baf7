"""The device mesh and the batch on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from timix_jax.errors import UserError
from timix_jax.parallel.paths import map_with_names

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(
    devices: list[jax.Device] | None = None, *, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> Mesh:
    """A mesh with the axes ``data``, ``fsdp`` and ``tensor`` over all devices (or those given).

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
    # jax.make_mesh makes Explicit axes by default, which Flax modules don't understand.
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis over ``data`` and ``fsdp``; everything else whole on each device."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is cut."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


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
        batch: (nested) dict of NumPy arrays (b, ...), b = global batch / number of processes.

    Returns:
        The same dict of ``jax.Array`` (global batch, ...); 64-bit numbers become 32-bit unless x64
        is on.

    Raises:
        UserError: a field's global batch does not divide over the devices, or holds integers that
            don't fit in 32 bits.
    """
    sharding = batch_sharding(mesh)

    def put(name: str, local: np.ndarray) -> jax.Array:
        if local.ndim == 0:
            raise UserError(f"batch field {name!r}: a scalar; each needs a leading batch axis")
        rows = local.shape[0] * jax.process_count()
        check_batch_size(rows, mesh, field=f"batch size of {name!r}")
        _check_integers(name, local)
        return jax.make_array_from_process_local_data(sharding, local)

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
