"""Image-text similarities of a batch, not yet as a matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Similarities(NamedTuple):
    """s = image · textᵀ / τ (+ bias): rows are images, columns are captions.

    Attributes:
      image, text: (B, D) embeddings of the global batch.
      temperature: τ, a scalar.
      bias: a scalar, or None for a model without one; it does not change a softmax.
    """

    image: Array
    text: Array
    temperature: Array
    bias: Array | None = None

    def matrix(self) -> Array:
        """Return s (B, B), from exact float32 products as in `sums`, so that dense, gather and ring agree."""
        products = jnp.matmul(self.image, self.text.T, precision=jax.lax.Precision.HIGHEST)
        s = products / self.temperature
        return s if self.bias is None else s + self.bias

    def constant(self) -> "Similarities":
        """Return the similarities as constants."""
        return jax.lax.stop_gradient(self)

    def transposed_where(self, condition: Array) -> "Similarities":
        """Return the similarities, transposed if the bool () is true."""
        return self._replace(
            image=jnp.where(condition, self.text, self.image),
            text=jnp.where(condition, self.image, self.text),
        )

    def transposed(self) -> "Similarities":
        """Return the similarities with texts as rows and images as columns."""
        return self._replace(image=self.text, text=self.image)
