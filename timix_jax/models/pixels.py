"""Conversion of pixels to the models' range."""

import jax
import jax.numpy as jnp


def normalise_pixels(images: jax.Array) -> jax.Array:
    """Map uint8 0..255 to -1..1, float32 (float64 in JAX's x64 mode); leave floats unchanged."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.result_type(float)) / 127.5 - 1.0
    return images
