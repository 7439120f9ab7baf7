"""The loop over tiles of all pairs of a global batch, for sums without the matrix of pairs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from timix_jax.errors import UserError
from timix_jax.parallel.mesh import BATCH_AXES, batch_shards

Method = Literal["dense", "gather", "ring"]


@dataclasses.dataclass(frozen=True)
class PairReduction:
    """The method for sums over the N×N pairs of a global batch.

    Attributes:
      method: "dense" builds the N×N matrix; "gather" collects the other side's embeddings on each device and visits
        them in tiles; "ring" passes each device's embeddings around all devices, so that a device holds two parts at
        a time. A ring pays one latency per device, so "gather" is faster as long as N·D fits easily.
      chunk: columns per tile; a tile has one row per example of the device.
      mesh: the mesh that splits the batch over its axes `data` and `fsdp`; None for one device.

    Raises:
      UserError: the method is unknown, or the chunk is below 1.
    """

    method: Method = "dense"
    chunk: int = 1024
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UserError(
                f"contrastive.method={self.method!r} is unknown; use one of "
                f"{', '.join(get_args(Method))}"
            )
        if self.chunk < 1:
            raise UserError(f"contrastive.chunk={self.chunk}: give at least 1 column, such as 1024")

    @property
    def shards(self) -> int:
        """Number of parts that the batch is split into."""
        return 1 if self.mesh is None else batch_shards(self.mesh)


DENSE = PairReduction()


class Place(NamedTuple):
    """Global indices of a tile's rows (n,) and columns (m,), int32; -1 marks padding."""

    row: jax.Array
    column: jax.Array


class Part(NamedTuple):
    """One direction of a sweep: for each row, a reduction over all columns.

    Attributes:
      update: (shared, rows, columns, place, accumulators) → accumulators, for one tile.
      rows: arrays (N, ...) that stay on their devices.
      columns: arrays (N, ...) that travel to all rows.
      init: n → initial accumulators (n, ...) of n rows, constants.
    """

    update: Callable[[Any, Any, Any, Place, Any], Any]
    rows: Any
    columns: Any
    init: Callable[[int], Any]


@jax.named_scope("pair_sums")  # by which --mode=compile recognises its collectives
def sweep(parts: Sequence[Part], shared: Any, reduction: PairReduction) -> list[Any]:
    """Visit all tiles of all parts in one loop.

    In the ring, every second part travels in the opposite direction, which uses links both ways. N need not be a
    multiple of the number of devices or of the chunk. Not differentiable: callers define a backward sweep.

    Args:
      parts: the reductions, over the same rows and columns.
      shared: scalars that every tile needs.
      reduction: method, chunk and mesh.

    Returns:
      The accumulators (N, ...) of each part.
    """
    updates = [part.update for part in parts]
    inits = [part.init for part in parts]
    rows = [part.rows for part in parts]
    columns = [part.columns for part in parts]
    count = len(jax.tree.leaves(rows)[0])
    shards = reduction.shards
    if shards == 1:
        index = jnp.arange(count, dtype=jnp.int32)
        return [
            _visit(update, shared, r, index, c, index, init(count), reduction.chunk)
            for update, r, c, init in zip(updates, rows, columns, inits, strict=True)
        ]
    rows, columns = (_pad(arrays, -count % shards) for arrays in (rows, columns))
    spec = PartitionSpec(BATCH_AXES)
    swept = jax.shard_map(
        functools.partial(_sweep_of_a_device, updates, inits, count, reduction),
        mesh=reduction.mesh,
        in_specs=(PartitionSpec(), spec, spec),
        out_specs=spec,
    )(shared, rows, columns)
    return jax.tree.map(lambda a: a[:count], swept)


def _sweep_of_a_device(
    updates: list[Any],
    inits: list[Any],
    count: int,
    reduction: PairReduction,
    shared: Any,
    rows: list[Any],
    columns: list[Any],
) -> list[Any]:
    """Reduce the rows of one device over all columns, inside shard_map."""
    shards = reduction.shards
    n = len(jax.tree.leaves(rows)[0])
    device = lax.axis_index(BATCH_AXES).astype(jnp.int32)
    accumulators = jax.tree.map(
        lambda a: lax.pcast(a, BATCH_AXES, to="varying"), [init(n) for init in inits]
    )

    def place_of(first: jax.Array | int, length: int) -> jax.Array:
        index = first + jnp.arange(length, dtype=jnp.int32)
        return jnp.where(index < count, index, -1)

    def visit(accumulators: list[Any], columns: list[Any], places: list[jax.Array]) -> list[Any]:
        own = place_of(device * n, n)
        return [
            _visit(update, shared, r, own, c, place, a, reduction.chunk)
            for update, r, c, place, a in zip(
                updates, rows, columns, places, accumulators, strict=True
            )
        ]

    if reduction.method == "gather":
        columns = jax.tree.map(lambda a: lax.all_gather(a, BATCH_AXES, tiled=True), columns)
        return visit(accumulators, columns, [place_of(0, n * shards)] * len(columns))

    ways = [1 if part % 2 == 0 else -1 for part in range(len(columns))]

    def places(hop: jax.Array | int) -> list[jax.Array]:
        """Return each part's column indices after `hop` hops: those of the device that many places back."""
        return [place_of((device - way * hop) % shards * n, n) for way in ways]

    def hop(carry: tuple[list[Any], list[Any]], index: jax.Array) -> tuple[Any, None]:
        accumulators, columns = carry
        # Sent first and independent of the products, so that the transfer overlaps with them.
        moved = [_pass_on(c, way, shards) for c, way in zip(columns, ways, strict=True)]
        return (visit(accumulators, columns, places(index)), moved), None

    hops = jnp.arange(shards - 1, dtype=jnp.int32)
    (accumulators, columns), _ = lax.scan(hop, (accumulators, columns), hops)
    return visit(accumulators, columns, places(shards - 1))


def _pass_on(columns: Any, way: int, shards: int) -> Any:
    route = [(i, (i + way) % shards) for i in range(shards)]
    return jax.tree.map(lambda a: lax.ppermute(a, BATCH_AXES, route), columns)


def _visit(
    update: Any,
    shared: Any,
    rows: Any,
    row: jax.Array,
    columns: Any,
    column: jax.Array,
    accumulators: Any,
    chunk: int,
) -> Any:
    """Reduce the rows over these columns, at most `chunk` at a time."""
    tiles = -(-len(column) // chunk)
    if tiles == 1:
        return update(shared, rows, columns, Place(row, column), accumulators)
    width = -(-len(column) // tiles)  # equal tiles need the least padding
    padding = tiles * width - len(column)

    def cut(arrays: Any) -> Any:
        return jax.tree.map(lambda a: a.reshape(tiles, width, *a.shape[1:]), arrays)

    def step(accumulators: Any, tile: tuple[Any, jax.Array]) -> tuple[Any, None]:
        columns, column = tile
        return update(shared, rows, columns, Place(row, column), accumulators), None

    tiled = cut(_pad(columns, padding)), cut(jnp.pad(column, (0, padding), constant_values=-1))
    return lax.scan(step, accumulators, tiled)[0]


def _pad(arrays: Any, rows: int) -> Any:
    if not rows:
        return arrays
    return jax.tree.map(lambda a: jnp.pad(a, [(0, rows)] + [(0, 0)] * (a.ndim - 1)), arrays)
