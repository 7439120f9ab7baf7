"""Rows of a global batch that other rows ask for, such as the image tokens of hard negatives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.parallel.mesh import BATCH_AXES

Array = jax.Array


@jax.named_scope("hard_negatives")  # by which --mode=compile recognises its collectives
def take_global(arrays: Any, index: Array, reduction: PairReduction) -> Any:
    """Return row `index[k]` of each array for every k.

    The ring passes each device's rows around all devices, which keep those that they ask for: a device holds two parts
    of the batch at a time, and what it keeps. The other methods may hold the whole batch on every device. Values and
    gradients are the same.

    Args:
      arrays: a tree of arrays (B, ...), split as the batch is.
      index: int32 (B,) global rows.
      reduction: method and mesh.
    """
    mesh, shards = reduction.mesh, reduction.shards
    if mesh is None or shards == 1:
        return jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), arrays)
    if reduction.method != "ring":
        by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        taken = jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), arrays)
        return lax.with_sharding_constraint(taken, by_row)
    spec = PartitionSpec(BATCH_AXES)
    ring = functools.partial(_around_the_ring, shards)
    return jax.shard_map(ring, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(arrays, index)


def take_local(arrays: Any, index: Array, shards: int) -> Any:
    """Return row `index[k]` of each array for every k, which lies in the same one of `shards` parts as k."""
    rows = len(index) // shards
    local = (index % rows).reshape(shards, rows)

    def take(x: Array) -> Array:
        parts = x.reshape(shards, rows, *x.shape[1:])
        return jax.vmap(lambda part, i: part[i])(parts, local).reshape(x.shape)

    return jax.tree.map(take, arrays)


def _around_the_ring(shards: int, arrays: Any, index: Array) -> Any:
    """Collect the rows that one device asks for, inside shard_map.

    The result is linear in the arrays, so that its derivative is the same ring in the other direction.
    """
    rows = len(index)
    device = lax.axis_index(BATCH_AXES)
    route = [(i, (i + 1) % shards) for i in range(shards)]

    def keep(kept: Any, block: Any, hop: Array | int) -> Any:
        owner = (device - hop) % shards
        here = index // rows == owner

        def one(kept: Array, block: Array) -> Array:
            found = jnp.take(block, index % rows, axis=0, mode="clip")
            return jnp.where(here.reshape(-1, *(1,) * (block.ndim - 1)), found, kept)

        return jax.tree.map(one, kept, block)

    def step(carry: tuple[Any, Any], hop: Array) -> tuple[tuple[Any, Any], None]:
        kept, block = carry
        # Sent first and independent of what is kept, so that the transfer overlaps with it.
        moved = jax.tree.map(lambda x: lax.ppermute(x, BATCH_AXES, route), block)
        return (keep(kept, block, hop), moved), None

    # Every asked-for row has an owner, so that all of the first `kept` is replaced.
    (kept, block), _ = lax.scan(step, (arrays, arrays), jnp.arange(shards - 1))
    return keep(kept, block, shards - 1)
