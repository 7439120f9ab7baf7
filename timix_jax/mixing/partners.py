"""Who is mixed with whom, over the global batch (paper §3; never per device: §6, point 1)."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError

Pairing = Literal["flip", "derangement"]


def check_pairing(pairing: str) -> None:
    """Raises UserError if ``pairing`` is not a known rule."""
    if pairing not in get_args(Pairing):
        raise UserError(f"mixing partner {pairing!r} is unknown; use one of {get_args(Pairing)}")


def flip(batch: int) -> jax.Array:
    """π(k) = B−1−k, int32 (B,), an involution; an odd batch's middle is its own partner."""
    return jnp.arange(batch - 1, -1, -1, dtype=jnp.int32)


def derangement(key: jax.Array, batch: int) -> jax.Array:
    """A random cyclic permutation, int32 (B,): no row is its own partner if B > 1, odd or even.

    Not an involution: image k carries caption π(k), while caption k is carried by image π⁻¹(k).
    """
    order = jax.random.permutation(key, jnp.arange(batch, dtype=jnp.int32))
    return jnp.zeros(batch, jnp.int32).at[order].set(jnp.roll(order, -1), unique_indices=True)


def draw_partners(pairing: Pairing, key: jax.Array, batch: int) -> jax.Array:
    """Partner of each row, int32 (B,); ``key`` is used by the random rule only."""
    return flip(batch) if pairing == "flip" else derangement(key, batch)


def take_partners(values: jax.Array, partner: jax.Array, pairing: Pairing) -> jax.Array:
    """``values[partner]`` along the batch axis.

    The flip is written as a reversal: between devices that is one permutation, where a gather by
    computed indices would make the compiler collect the whole batch on every device.
    """
    return jnp.flip(values, axis=0) if pairing == "flip" else values[partner]
