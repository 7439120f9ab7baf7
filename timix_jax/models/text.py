"""Text encoder in BERT's order, CLIP's or SigLIP's."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.axes import Axes, declare
from timix_jax.models.dropout import Dropout, Place, drop
from timix_jax.models.protocols import ReplacedWords
from timix_jax.models.transformer import Remat, Stack, kernel_init
from timix_jax.models.variants import BERT, TextVariant
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
    """Word and position embeddings, a norm and blocks, bidirectional unless the variant is causal.

    `pre_norm=False` is BERT's order and fits its weights; `True` trains more easily from scratch. `eot_id` ends a
    caption, for `variant.pool="eot"`.
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
    variant: TextVariant = BERT
    eot_id: int = -1

    @nn.compact
    def __call__(
        self, tokens: Array, dropout: Dropout | None = None, words: ReplacedWords | None = None
    ) -> tuple[Array, Array, Array, Array]:
        """Encode tokens int32 (B, T), [CLS] first, some of which are replaced by `words` at their own positions.

        `dropout` is that of B rows, None for none.

        Returns:
          The projection (B, D), the pooled vector (B, C), the last hidden states (B, T, C), and a mask (B, T), False
          for padding.
        """
        s = self.shape
        if tokens.shape[1] > s.max_tokens:
            raise UserError(
                f"captions of {tokens.shape[1]} tokens exceed model.text.max_tokens={s.max_tokens}"
            )
        v, given = self.variant, tokens.shape[1]
        if not v.pad_mask or v.pool == "last":
            missing = s.max_tokens - given
            tokens = jnp.pad(tokens, ((0, 0), (0, missing)), constant_values=self.pad_id)
        embed = nn.Embed(
            s.vocab_size, s.width, embedding_init=nn.initializers.normal(0.02), name="word_embed"
        )
        position_init = declare(nn.initializers.normal(0.02), Axes(decay=False))
        positions = self.param("pos_embed", position_init, (1, s.max_tokens, s.width))
        x = embed(tokens)
        if words is not None:
            replaced = jnp.where(
                words.at[..., None], words.embeddings.astype(x.dtype), x[:, :given]
            )
            x = jnp.concatenate([replaced, x[:, given:]], axis=1)
        x = x + positions[:, : tokens.shape[1]]
        eps = v.eps or (1e-6 if self.pre_norm else 1e-12)
        if not self.pre_norm:
            x = nn.LayerNorm(epsilon=eps, name="embed_norm")(x)
        x = drop(dropout, x, Place.EMBEDDINGS)
        mask = tokens != self.pad_id
        x, _ = Stack(
            s.depth,
            s.heads,
            s.mlp_dim,
            pre_norm=self.pre_norm,
            eps=eps,
            act=v.act or self.act,
            dtype=self.dtype,
            scan=self.scan,
            remat=self.remat,
            layout=self.layout,
            root="text/blocks",
            causal=v.causal,
            name="blocks",
        )(x.astype(self.dtype), mask if v.pad_mask and not v.causal else None, dropout)
        if self.pre_norm:
            x = nn.LayerNorm(epsilon=eps, dtype=self.dtype, name="norm")(x)
        pooled = projected = self._pool(x, tokens, mask)
        if v.projection != "none":
            projected = nn.Dense(
                self.embed_dim,
                use_bias=v.projection == "biased",
                kernel_init=kernel_init,
                dtype=self.dtype,
                name="projection",
            )(pooled)
        return projected, pooled, x[:, :given], mask[:, :given]

    def _pool(self, x: Array, tokens: Array, mask: Array) -> Array:
        """Return one vector (B, C) of the hidden states x (B, T, C)."""
        pool = self.variant.pool
        if pool == "cls":
            return x[:, 0]
        if pool == "last":
            return x[:, -1]
        if pool == "mean":
            weights = mask.astype(jnp.promote_types(x.dtype, jnp.float32))[..., None]
            total = jnp.sum(x * weights, axis=1)
            return (total / jnp.maximum(jnp.sum(weights, axis=1), 1)).astype(x.dtype)
        end = jnp.argmax(tokens == self.eot_id, axis=1)  # the first one
        return jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
