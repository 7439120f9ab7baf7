"""From a patch to the embedding of a word, which the text tower reads in a word's place."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.models.axes import Axes, declare

Array = jax.Array

# Patches have an amplitude of about 1/2, and fresh word embeddings one of 0.02, as have the positions added to them.
_kernel_init = nn.initializers.variance_scaling((0.02 / 0.5) ** 2, "fan_in", "truncated_normal")


class WordProjection(nn.Module):
    """A linear layer from the image width to the width of the text tower."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        """Map patches (..., C) of the stem to embeddings (..., width)."""
        init = declare(_kernel_init, Axes(muon=((-2,), (-1,))))
        return nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="output")(patches)
