"""Patch dropout: in training the image tower reads a random part of the patches (FLIP, arXiv 2212.00794, §3)."""

import jax
import jax.numpy as jnp

Array = jax.Array


def kept_count(patches: int, rate: float) -> int:
    """Return K, the number of patches of N that a dropout rate 0 ≤ rate < 1 keeps; at least one."""
    return max(1, round(patches * (1 - rate)))


def draw_kept(key: Array, batch: int, patches: int, rate: float) -> Array:
    """Draw uniform subsets of K = `kept_count` patch indices, int32 (B, K)."""
    order = jnp.argsort(jax.random.uniform(key, (batch, patches)), axis=1)
    return order[:, : kept_count(patches, rate)].astype(jnp.int32)


def take_patches(patches: Array, kept: Array) -> Array:
    """Select the patches `kept` (B, K) of each image's patches (B, N, C)."""
    return jnp.take_along_axis(patches, kept[..., None], axis=1)
