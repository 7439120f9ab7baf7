"""Text-aware patch predictor (TPP, docs/method.md §1): does the caption mention this patch?"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.models.layers import gelu
from timix_jax.models.transformer import kernel_init

Array = jax.Array


class PatchPredictor(nn.Module):
    """Classifies each patch given a text vector.

    u = GELU(W1·LN(h) + b1)
    z = [ u[..., :C/2] ; mean_N u[..., C/2:] ; c ]
    z = GELU(W3·GELU(W2·z + b2) + b3)
    logp = log_softmax(W4·z + b4)
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Array, c: Array) -> Array:
        """Map patch tokens h (B, N, C) and text vectors c (B, Ct) to float32 log-probabilities (B, N, 2).

        Class 1 means that the text mentions the patch.
        """
        width = h.shape[-1]
        half = width // 2
        dense = lambda features, name: nn.Dense(
            features, kernel_init=kernel_init, dtype=self.dtype, name=name
        )
        # Two passes: E[x²] − E[x]² loses a variance that is small compared with the mean.
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name="norm")
        u = gelu(dense(width, "in")(norm(h)))
        context = jnp.concatenate([u[..., half:].mean(axis=1), c.astype(u.dtype)], axis=-1)
        context = jnp.broadcast_to(context[:, None], (*u.shape[:2], context.shape[-1]))
        z = jnp.concatenate([u[..., :half], context], axis=-1)
        z = gelu(dense(half, "hidden1")(z))
        z = gelu(dense(width // 4, "hidden2")(z))
        logits = dense(2, "out")(z)
        return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
