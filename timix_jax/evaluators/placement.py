"""Evaluation batches on the mesh: split over every device, results whole on each."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis over all axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device, so that every process can read it."""
    return NamedSharding(mesh, PartitionSpec())


def divisible(size: int, mesh: Mesh) -> int:
    """``size`` rounded up to a multiple of the number of devices of the mesh."""
    return -(-size // mesh.size) * mesh.size


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array, equal on every process, as a global array; a device gets only its part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def pad_rows(array: np.ndarray, rows: int, fill: int = 0) -> np.ndarray:
    """``array`` (n, ...) lengthened with ``fill`` to (rows, ...): every batch has one shape."""
    padding = [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, padding, constant_values=fill)
