"""A text decoder of causal blocks with cross-attention: whole texts for training, token by token for generation."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.axes import Axes, declare
from timix_jax.models.cached_attention import Kept
from timix_jax.models.cross_block import CrossStack, Memory
from timix_jax.models.dropout import Dropout, Place, drop
from timix_jax.models.heads import WordHead
from timix_jax.models.transformer import Remat
from timix_jax.parallel.layout import Layout

Array = jax.Array


class DecoderConstants(NamedTuple):
    """What all steps of one generation share.

    Attributes:
      layers: the parameters of each layer, whole.
      outside: the parameters outside the layers.
      memory: keys and values of each layer, (B, heads, S, D), not repeated for the beams.
      mask: (B, S) bool, or None.
    """

    layers: list[Any]
    outside: Any
    memory: list[Kept]
    mask: Array | None


class Decoder(nn.Module):
    """BERT as a decoder (BLIP, mPLUG): embeddings with a norm, causal cross blocks, a head tied to its own word table.

    Attributes:
      states_width: width of the states that every block reads.
      root: path of this module in the whole model, for `layout`.
    """

    vocab_size: int
    max_tokens: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    states_width: int
    eps: float = 1e-12
    act: str = "gelu"
    dtype: Any = jnp.float32
    scan: bool = True
    remat: Remat = "none"
    layout: Layout | None = None
    root: str = "decoder"

    def setup(self) -> None:
        """Declare the parts, called as in the text tower."""
        normal = nn.initializers.normal(0.02)
        self.word_embed = nn.Embed(self.vocab_size, self.width, embedding_init=normal)
        position_init = declare(normal, Axes(decay=False))
        self.pos_embed = self.param("pos_embed", position_init, (1, self.max_tokens, self.width))
        self.embed_norm = nn.LayerNorm(epsilon=self.eps)
        self.blocks = CrossStack(
            self.depth,
            self.width,
            self.heads,
            self.mlp_dim,
            self.states_width,
            eps=self.eps,
            act=self.act,
            dtype=self.dtype,
            causal=True,
            scan=self.scan,
            remat=self.remat,
            layout=self.layout,
            root=f"{self.root}/blocks",
        )
        self.head = WordHead(self.vocab_size, self.eps, self.act, self.dtype)

    def memory(self, states: Array) -> Memory:
        """Return the keys and values (depth, B, S, heads, D) of states (B, S, Cs)."""
        memory: Memory = self.blocks.memory(states)
        return memory

    def __call__(
        self,
        tokens: Array,
        memory: Memory,
        memory_mask: Array | None = None,
        dropout: Dropout | None = None,
    ) -> Array:
        """Map texts int32 (R, T) to the states (R, T, C) from which `logits` tells the token after each.

        Args:
          tokens: R = B·G texts, of which G consecutive ones read the same row of the memory. Padding comes last.
          memory: from `memory`.
          memory_mask: (B, S) bool, False for states that are not attended to, or None.
          dropout: of R rows; None for none.
        """
        length = tokens.shape[1]
        if length > self.max_tokens:
            raise UserError(f"texts of {length} tokens exceed the decoder's {self.max_tokens}")
        x = self.embed_norm(self.word_embed(tokens) + self.pos_embed[:, :length])
        x = drop(dropout, x, Place.EMBEDDINGS)
        states: Array = self.blocks(x.astype(self.dtype), None, memory, memory_mask, dropout)
        return states

    def logits(self, states: Array) -> Array:
        """Map states (..., C) to logits (..., V) in float32 or wider."""
        logits: Array = self.head(states, self.word_embed.embedding)
        return logits

    def constants(self, memory: Memory, mask: Array | None) -> DecoderConstants:
        """Return what the steps of a generation share, given what they read."""
        kept = memory.by_head()
        by_layer = [jax.tree.map(lambda x, i=i: x[i], kept) for i in range(self.depth)]
        own = self.variables["params"]
        outside = {name: own[name] for name in own if name != "blocks"}
        return DecoderConstants(self.blocks.each_layer(), outside, by_layer, mask)

    def step(
        self, constants: DecoderConstants, tokens: Array, position: Array, kept: list[Kept]
    ) -> tuple[Array, list[Kept]]:
        """Return the logits (R, V) of the tokens after `tokens` int32 (R,), and the cache with these.

        Args:
          constants: from `constants`.
          tokens: of R = B·K rows, all at the same position.
          position: scalar.
          kept: cache of each layer, (R, heads, T, D).
        """
        at = jax.lax.dynamic_index_in_dim(self.pos_embed[0], position, keepdims=False)
        x = self.embed_norm(self.word_embed(tokens) + at).astype(self.dtype)
        x, kept = self.blocks.step(
            constants.layers, x, position, kept, constants.memory, constants.mask
        )
        return self.logits(x), kept

    def initialise(self) -> Array:
        """Use every parameter once, for `init`."""
        states = jnp.zeros((1, 1, self.states_width), self.dtype)
        return self.logits(self(jnp.zeros((1, 1), jnp.int32), self.memory(states)))
