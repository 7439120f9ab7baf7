"""Image-text similarities of a batch, before any matrix of them is built."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Similarities(NamedTuple):
    """s = image · textᵀ / τ (+ bias): rows are images, columns are captions.

    Attributes:
      image, text: (B, D) embeddings of the global batch.
      temperature: τ, a scalar.
      bias: a scalar, or None for a model without (the softmax does not see it).
    """

    image: Array
    text: Array
    temperature: Array
    bias: Array | None = None

    def matrix(self) -> Array:
        """Return s (B, B), of exact float32 products as in `pair_sums`: dense, gather and ring agree."""
        products = jnp.matmul(self.image, self.text.T, precision=jax.lax.Precision.HIGHEST)
        s = products / self.temperature
        return s if self.bias is None else s + self.bias

    def constant(self) -> "Similarities":
        """Return the same without gradients."""
        return jax.lax.stop_gradient(self)

    def transposed(self) -> "Similarities":
        """Return texts × images."""
        return self._replace(image=self.text, text=self.image)
