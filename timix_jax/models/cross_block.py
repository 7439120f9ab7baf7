"""A post-norm block with cross-attention to image states, and a stack of such blocks (docs/method.md §5)."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.models.axes import Axes, declare
from timix_jax.models.cached_attention import Kept, attend_by_head, self_attend_cached
from timix_jax.models.dropout import Dropout, Place, drop
from timix_jax.models.layers import attend
from timix_jax.models.stacked import stacked_layers
from timix_jax.models.transformer import (
    OUT,
    QKV,
    QKV_BIAS,
    Attention,
    Mlp,
    Remat,
    bias_init,
    kernel_init,
    rematerialise,
    rounded,
)
from timix_jax.parallel.layout import Layout

Array = jax.Array

QUERY = Axes(tensor=-2, muon=((-3,), (-2, -1)), unit="heads")  # (C, heads, C/heads)


class Memory(NamedTuple):
    """Keys and values of cross-attention: what each row offers to those that read it.

    Computed once per image and shared by all texts that read it, and by all steps of a decoder.

    Attributes:
      key, value: (B, S, heads, D); (layers, B, S, heads, D) for a stack.
    """

    key: Array
    value: Array

    def by_head(self) -> Kept:
        """Return the same in the order (..., heads, S, D), in which the steps of a decoder read them."""
        return Kept(self.key.swapaxes(-3, -2), self.value.swapaxes(-3, -2))


class CrossBlock(nn.Module):
    """BERT's block with cross-attention between self-attention and MLP, each followed by its norm.

        x ← LN(x + SelfAttention(x));  x ← LN(x + CrossAttention(x, memory));  x ← LN(x + MLP(x))

    `attention`, `norm1`, `mlp` and `norm2` are called as in `transformer.Block`, so that a layer of a text tower fits.

    **Example:**

        block = CrossBlock(width=768, heads=12, mlp_dim=3072)
        memory = block.apply(variables, image_tokens, method="memory")
        x = block.apply(variables, x, mask, memory)
    """

    width: int
    heads: int
    mlp_dim: int
    eps: float = 1e-12
    act: str = "gelu"
    dtype: Any = jnp.float32
    causal: bool = False

    def setup(self) -> None:
        """Declare the parts; the width of the image states is known when `memory` is first called."""
        project = functools.partial(nn.DenseGeneral, dtype=self.dtype)
        heads = (self.heads, self.width // self.heads)
        biases = declare(bias_init, QKV_BIAS)
        self.attention = Attention(self.heads, self.dtype, self.causal)
        self.cross_query = project(heads, kernel_init=declare(kernel_init, QUERY), bias_init=biases)
        self.cross_key_value = project(
            (2, *heads), kernel_init=declare(kernel_init, QKV), bias_init=biases
        )
        self.cross_out = project(self.width, axis=(-2, -1), kernel_init=declare(kernel_init, OUT))
        self.mlp = Mlp(self.mlp_dim, self.act, self.dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=self.eps, dtype=self.dtype)
        self.norm1, self.cross_norm, self.norm2 = norm(), norm(), norm()

    def memory(self, states: Array) -> Memory:
        """Return the keys and values of states (B, S, Cs) of any width."""
        key_value = self.cross_key_value(states)
        return Memory(key_value[:, :, 0], key_value[:, :, 1])

    def __call__(
        self,
        x: Array,
        mask: Array | None,
        memory: Memory,
        memory_mask: Array | None = None,
        dropout: Dropout | None = None,
    ) -> Array:
        """Map tokens (R, T, C) to (R, T, C).

        Args:
          x: R = B·G rows, of which G consecutive ones read the same row of the memory.
          mask: (R, T) bool, False for padding, or None.
          memory: keys and values of B rows.
          memory_mask: (B, S) bool, False for states that are not attended to, or None.
          dropout: of R rows, for this layer; None for none.
        """
        y = self.attention(x, mask, dropout)
        x = self.norm1(x + drop(dropout, y, Place.SELF_OUTPUT))
        y = self._cross(x, memory, memory_mask, dropout)
        x = self.cross_norm(x + drop(dropout, y, Place.CROSS_OUTPUT))
        return self.norm2(x + drop(dropout, self.mlp(x), Place.MLP_OUTPUT))

    def _cross(
        self, x: Array, memory: Memory, mask: Array | None, dropout: Dropout | None
    ) -> Array:
        rows, tokens, _ = x.shape
        images = len(memory.key)
        query = self.cross_query(x)
        # Queries do not see each other, so that the texts of one image are as one long text.
        query = query.reshape(images, rows // images * tokens, *query.shape[2:])
        weights = None
        if dropout is not None:
            weights = functools.partial(dropout.every(rows // images), place=Place.CROSS_WEIGHTS)
        y = attend(query, memory.key, memory.value, mask, drop=weights)
        return self.cross_out(y.reshape(rows, tokens, *y.shape[2:]))

    def step(
        self, x: Array, position: Array, kept: Kept, memory: Kept, memory_mask: Array | None = None
    ) -> tuple[Array, Kept]:
        """Map the token at one position as `__call__` maps a causal text, reading the kept keys and values of others.

        Args:
          x: (R, C) tokens of R = B·K rows, of which K consecutive ones read the same row of the memory.
          position: scalar.
          kept: (R, heads, T, D) of earlier tokens.
          memory: (B, heads, S, D).
          memory_mask: (B, S) bool, or None.

        Returns:
          (R, C), and `kept` with this token.
        """
        y, kept = self_attend_cached(
            self.attention.variables["params"], x, position, kept, self.dtype
        )
        x = self.norm1(x + y)
        images = len(memory.key)
        query = self.cross_query(x).reshape(images, len(x) // images, self.heads, -1)
        mask = None if memory_mask is None else memory_mask[:, None, None]
        y = attend_by_head(query.swapaxes(1, 2), memory, mask).swapaxes(1, 2)
        x = self.cross_norm(x + self.cross_out(y.reshape(len(x), self.heads, -1)))
        return self.norm2(x + self.mlp(x)), kept

    def initialise(self, x: Array, states: Array) -> Array:
        """Use every parameter once, for `init`."""
        return self(x, None, self.memory(states))


class CrossStack(nn.Module):
    """`depth` cross blocks whose parameters are stacked on a leading layer axis, as in `transformer.Stack`.

    Attributes:
      states_width: width Cs of the image states.
      root: path of this module in the whole model, for `layout`.
    """

    depth: int
    width: int
    heads: int
    mlp_dim: int
    states_width: int
    eps: float = 1e-12
    act: str = "gelu"
    dtype: Any = jnp.float32
    causal: bool = False
    scan: bool = True
    remat: Remat = "none"
    layout: Layout | None = None
    root: str = ""

    def setup(self) -> None:
        """Declare the stacked layers."""
        self.layers = stacked_layers(self, self._init_one, self.depth)

    @property
    def _block(self) -> CrossBlock:
        # Unbound: this module holds its parameters, stacked.
        shape = (self.width, self.heads, self.mlp_dim, self.eps, self.act, self.dtype)
        return CrossBlock(*shape, self.causal, parent=None)

    def _init_one(self, key: Array) -> Any:
        x, states = (
            jnp.zeros((1, 1, width), self.dtype) for width in (self.width, self.states_width)
        )
        return self._block.init(key, x, states, method="initialise")["params"]

    def _whole(self, params: Any) -> Any:
        """Return the parameters of one layer as the layer uses them, gathered."""
        if self.scan:
            params = rounded(params, self.dtype)
        if self.layout is None:
            return params
        scope = f"{self.root}/layers"
        return self.layout.gather(params, scope, dtype=self.dtype, layers=self.depth)

    def memory(self, states: Array, start: int = 0, stop: int | None = None) -> Memory:
        """Return the keys and values (layers, B, S, heads, D) of states (B, S, Cs) in layers start..stop-1."""
        states = states.astype(self.dtype)

        def one_layer(params: Any) -> Memory:
            variables = {"params": self._whole({"cross_key_value": params})}
            memory = self._block.apply(variables, states, method="memory")
            return self._split_rows(memory)

        run = rematerialise(one_layer, self.remat)
        own = jax.tree.map(lambda p: p[start:stop], self.layers["cross_key_value"])
        if self.scan:
            return jax.lax.map(run, own)
        count = len(range(self.depth)[start:stop])
        each = [run(jax.tree.map(lambda p, i=i: p[i], own)) for i in range(count)]
        return jax.tree.map(lambda *layers: jnp.stack(layers), *each)

    def __call__(
        self,
        x: Array,
        mask: Array | None,
        memory: Memory,
        memory_mask: Array | None = None,
        dropout: Dropout | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Array:
        """Map tokens (R, T, C) to (R, T, C); as `CrossBlock`, with the memory of the layers start..stop-1 that run."""

        def one_layer(layer: tuple[Any, Memory, Dropout | None], y: Array) -> Array:
            params, own, of_layer = layer
            variables = {"params": self._whole(params)}
            out: Any = self._block.apply(variables, y, mask, own, memory_mask, of_layer)
            return jnp.asarray(self._split_rows(out))

        run = rematerialise(one_layer, self.remat)
        params = {name: p for name, p in self.layers.items() if name != "cross_key_value"}
        own = (params, dropout and dropout.by_layer(self.depth))
        params, dropouts = jax.tree.map(lambda p: p[start:stop], own)
        layers = (params, memory, dropouts)
        x = self._split_rows(x.astype(self.dtype))
        if self.scan:
            return jax.lax.scan(lambda y, layer: (run(layer, y), None), x, layers)[0]
        for i in range(len(memory.key)):
            x = run(jax.tree.map(lambda p, i=i: p[i], layers), x)
        return x

    def each_layer(self) -> list[Any]:
        """Return the whole parameters of each layer, matrices in `dtype`, as the steps of a decoder use them."""
        layers = [jax.tree.map(lambda p, i=i: p[i], self.layers) for i in range(self.depth)]
        rounded_once = lambda p: p if p.ndim < 2 else p.astype(self.dtype)
        return [jax.tree.map(rounded_once, self._whole(layer)) for layer in layers]

    def step(
        self,
        layers: list[Any],
        x: Array,
        position: Array,
        kept: list[Kept],
        memory: list[Kept],
        memory_mask: Array | None = None,
    ) -> tuple[Array, list[Kept]]:
        """Map the tokens (R, C) at one position through all layers; as `CrossBlock.step`, with a list by layer."""
        following: list[Kept] = []
        step: Any = self._block.apply
        for params, own, read in zip(layers, kept, memory, strict=True):
            variables = {"params": params}
            x, after = step(variables, x, position, own, read, memory_mask, method="step")
            following.append(after)
        return x, following

    def initialise(self) -> Array:
        """Use the layers once, for `init`."""
        x, states = (
            jnp.zeros((1, 1, width), self.dtype) for width in (self.width, self.states_width)
        )
        return self(x, None, self.memory(states))

    def _split_rows(self, tree: Any) -> Any:
        """Keep the rows of activations split as the batch is."""
        if self.layout is None:
            return tree
        return jax.tree.map(self.layout.constrain_batch, tree)
