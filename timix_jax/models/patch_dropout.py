"""Patch dropout: the image tower reads a random part of the patches while it trains (FLIP, arXiv 2212.00794, §3)."""

import jax
import jax.numpy as jnp

Array = jax.Array


def kept_count(patches: int, rate: float) -> int:
    """K, patches that stay of N at a dropout rate 0 ≤ rate < 1; at least one."""
    return max(1, round(patches * (1 - rate)))


def draw_kept(key: Array, batch: int, patches: int, rate: float) -> Array:
    """K distinct patch indices for each image, each subset as likely as another: int32 (B, K), K of `kept_count`."""
    order = jnp.argsort(jax.random.uniform(key, (batch, patches)), axis=1)
    return order[:, : kept_count(patches, rate)].astype(jnp.int32)


def take_patches(patches: Array, kept: Array) -> Array:
    """Rows `kept` (B, K) of each image's patches (B, N, C): (B, K, C)."""
    return jnp.take_along_axis(patches, kept[..., None], axis=1)
