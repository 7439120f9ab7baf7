"""BERT-style text encoder."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.axes import Axes, declare
from timix_jax.models.transformer import Remat, Stack, kernel_init
from timix_jax.parallel.layout import Layout

Array = jax.Array


class TextShape(NamedTuple):
    """Shape of the text encoder; `max_tokens` T includes [CLS] and [SEP]."""

    vocab_size: int
    max_tokens: int
    width: int
    depth: int
    heads: int
    mlp_dim: int


class TextTransformer(nn.Module):
    """Word and position embeddings, a norm and bidirectional blocks; [CLS] is the text vector.

    `pre_norm=False` is BERT's order and fits its weights; `True` trains more easily from scratch.
    """

    shape: TextShape
    embed_dim: int
    pad_id: int = 0
    pre_norm: bool = False
    act: str = "gelu"
    dtype: Any = jnp.float32
    scan: bool = True
    remat: Remat = "none"
    layout: Layout | None = None

    @nn.compact
    def __call__(self, tokens: Array) -> tuple[Array, Array, Array]:
        """Encode tokens int32 (B, T), [CLS] first.

        Returns:
          The projection (B, D) of [CLS], the last hidden states (B, T, C), and a mask (B, T), False for padding.
        """
        s = self.shape
        if tokens.shape[1] > s.max_tokens:
            raise UserError(
                f"captions of {tokens.shape[1]} tokens exceed model.text.max_tokens={s.max_tokens}"
            )
        embed = nn.Embed(
            s.vocab_size, s.width, embedding_init=nn.initializers.normal(0.02), name="word_embed"
        )
        position_init = declare(nn.initializers.normal(0.02), Axes(decay=False))
        positions = self.param("pos_embed", position_init, (1, s.max_tokens, s.width))
        x = embed(tokens) + positions[:, : tokens.shape[1]]
        eps = 1e-6 if self.pre_norm else 1e-12
        if not self.pre_norm:
            x = nn.LayerNorm(epsilon=eps, name="embed_norm")(x)
        mask = tokens != self.pad_id
        x, _ = Stack(
            s.depth,
            s.heads,
            s.mlp_dim,
            pre_norm=self.pre_norm,
            eps=eps,
            act=self.act,
            dtype=self.dtype,
            scan=self.scan,
            remat=self.remat,
            layout=self.layout,
            root="text/blocks",
            name="blocks",
        )(x.astype(self.dtype), mask)
        if self.pre_norm:
            x = nn.LayerNorm(epsilon=eps, dtype=self.dtype, name="norm")(x)
        projection = nn.Dense(
            self.embed_dim,
            use_bias=False,
            kernel_init=kernel_init,
            dtype=self.dtype,
            name="projection",
        )(x[:, 0])
        return projection, x, mask
