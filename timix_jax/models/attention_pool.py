"""Attention pooling: a learned query reads all tokens (the MAP head of big_vision and SigLIP)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.models.axes import Axes, declare
from timix_jax.models.layers import attend
from timix_jax.models.transformer import OUT, QKV, QKV_BIAS, Mlp, bias_init, kernel_init

Array = jax.Array

_QUERY = Axes(tensor=-2, muon=((-3,), (-2, -1)), unit="heads")  # (C, heads, C/heads)


class AttentionPool(nn.Module):
    """One vector per image: y = attention(probe, tokens); y + MLP(norm(y)).

    **Example:** `AttentionPool(heads=12, mlp_dim=3072).apply(variables, tokens)`  # (B, T, C) → (B, C)
    """

    heads: int
    mlp_dim: int
    eps: float = 1e-6
    act: str = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Map tokens (B, T, C) to (B, C)."""
        b, _, width = tokens.shape
        head = width // self.heads
        probe_init = declare(nn.initializers.xavier_uniform(), Axes(decay=False))
        probe = self.param("probe", probe_init, (1, 1, width))

        def project(x: Array, features: tuple[int, ...], axes: Axes, name: str) -> Array:
            return nn.DenseGeneral(
                features,
                kernel_init=declare(kernel_init, axes),
                bias_init=declare(bias_init, QKV_BIAS),
                dtype=self.dtype,
                name=name,
            )(x)

        query = project(probe.astype(self.dtype), (self.heads, head), _QUERY, "query")
        kv = project(tokens, (2, self.heads, head), QKV, "kv")
        query = jnp.broadcast_to(query, (b, *query.shape[1:]))
        y = nn.DenseGeneral(
            width,
            axis=(-2, -1),
            kernel_init=declare(kernel_init, OUT),
            dtype=self.dtype,
            name="out",
        )(attend(query, kv[:, :, 0], kv[:, :, 1]))[:, 0]
        norm = nn.LayerNorm(epsilon=self.eps, dtype=self.dtype, name="norm")
        return y + Mlp(self.mlp_dim, self.act, self.dtype, name="mlp")(norm(y))
