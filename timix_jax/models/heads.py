"""Heads on fused states: match or no match, and the word at a position."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.models.axes import Axes, declare
from timix_jax.models.transformer import activation, bias_init, kernel_init

Array = jax.Array

_SQUARE = Axes(muon=((-2,), (-1,)))


class MatchHead(nn.Module):
    """One linear layer from the fused [CLS] to the classes 0, no match, and 1, match."""

    @nn.compact
    def __call__(self, states: Array) -> Array:
        """Map fused states (R, T, C) to logits (R, 2), in float32 or wider."""
        first = states[:, 0]
        return nn.Dense(2, kernel_init=kernel_init, name="output")(_precise(first))


class WordHead(nn.Module):
    """BERT's head over the vocabulary: a dense layer, GELU, a norm, the product with the word table, a bias.

    **Example:** `WordHead(30522).apply(variables, states, word_table)`  # (..., C) → (..., V)
    """

    vocab_size: int
    eps: float = 1e-12
    act: str = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: Array, table: Array) -> Array:
        """Map states (..., C) to logits (..., V) in float32 or wider; `table` (V, C) is the word embedding."""
        width = states.shape[-1]
        x = nn.Dense(
            width, kernel_init=declare(kernel_init, _SQUARE), dtype=self.dtype, name="dense"
        )(states)
        x = activation(self.act)(x)
        x = nn.LayerNorm(epsilon=self.eps, dtype=self.dtype, name="norm")(x)
        bias = self.param("bias", bias_init, (self.vocab_size,))
        logits = jnp.einsum(
            "...c,vc->...v",
            x,
            table.astype(x.dtype),
            preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
        )
        return logits + bias


def _precise(x: Array) -> Array:
    """Return x in float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
