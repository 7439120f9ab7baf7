"""Evaluation batches on the mesh: split over every device, each part read by the device's process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timix_jax.data.loading.share import Share


def split_over_all(mesh: Mesh) -> NamedSharding:
    """Split the leading axis over all axes of the mesh, including those that replicate training batches."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def divisible(size: int, mesh: Mesh) -> int:
    """Round `size` up to a multiple of the number of devices."""
    return -(-size // mesh.size) * mesh.size


def own_share(mesh: Mesh) -> Share:
    """Return the parts of each batch on this process's devices, in the order of `split_over_all`."""
    here = jax.process_index()
    own = [n for n, device in enumerate(mesh.devices.flat) if device.process_index == here]
    return Share(mesh.size, tuple(own))


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Place a host array, equal on every process, as a global array; each device gets only its part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place_share(batch: Mapping[str, np.ndarray], share: Share, mesh: Mesh) -> dict[str, jax.Array]:
    """Join the rows (b, ...) that each process read into global arrays (B, ...) over all devices."""
    sharding = split_over_all(mesh)

    def put(local: np.ndarray) -> jax.Array:
        rows = len(local) // len(share.own)

        def part(index: Any) -> np.ndarray:
            own = share.own.index((index[0].start or 0) // rows)
            return local[own * rows : (own + 1) * rows]

        shape = (rows * share.parts, *local.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: put(local) for name, local in batch.items()}


def pad_rows(array: np.ndarray, rows: int, fill: int = 0) -> np.ndarray:
    """Pad `array` (n, ...) with `fill` to (rows, ...), so that all batches share one shape."""
    padding = [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, padding, constant_values=fill)
