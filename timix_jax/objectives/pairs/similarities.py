"""Image-text similarities of a batch, before the matrix of them is built."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives.base import Array, Forward


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
        """s (B, B), of exact float32 products as in `parallel.pair_sums`: dense, gather and ring are to agree."""
        products = jnp.matmul(self.image, self.text.T, precision=jax.lax.Precision.HIGHEST)
        s = products / self.temperature
        return s if self.bias is None else s + self.bias

    def constant(self) -> "Similarities":
        """The same without gradients."""
        return jax.lax.stop_gradient(self)


def similarities(model: DualEncoder, forward: Forward, image: Array) -> Similarities:
    """Those of these image embeddings (B, D) with the captions of the batch."""
    temperature, bias = model.temperature(forward.params), model.logit_bias(forward.params)
    return Similarities(image, forward.text.embedding, temperature, bias)
