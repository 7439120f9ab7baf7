"""Transformer blocks and their stack: one parameter layout, scanned or unrolled."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.layers import attend, gelu, widening_dot_general
from timix_jax.parallel.layout import Layout

Remat = Literal["none", "dots", "full"]
Array = jax.Array

# By fan-in: a fixed 0.02, right at width 768, keeps the small widths of CPU runs on a plateau for epochs.
kernel_init = nn.initializers.lecun_normal()


def activation(name: str) -> Callable[[Array], Array]:
    """`gelu` (exact, what ViT and BERT checkpoints expect) or `gelu_tanh`."""
    if name not in ("gelu", "gelu_tanh"):
        raise UserError(f"model.act={name!r} is unknown; use 'gelu' or 'gelu_tanh'")
    return gelu if name == "gelu" else jax.nn.gelu


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value product."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> Array:
        """x (B, T, C); mask (B, T) bool, False = padding. Returns (B, T, C)."""
        width = x.shape[-1]
        qkv = nn.DenseGeneral(
            (3, self.heads, width // self.heads),
            kernel_init=kernel_init,
            dtype=self.dtype,
            dot_general=widening_dot_general,
            name="qkv",
        )(x)
        y = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask)
        return nn.DenseGeneral(
            width, axis=(-2, -1), kernel_init=kernel_init, dtype=self.dtype, name="out"
        )(y)


class Mlp(nn.Module):
    """Two-layer perceptron of a block."""

    hidden: int
    act: str = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (...,C) to (...,C)."""
        y = nn.Dense(
            self.hidden,
            kernel_init=kernel_init,
            dtype=self.dtype,
            dot_general=widening_dot_general,
            name="up",
        )(x)
        y = activation(self.act)(y)
        return nn.Dense(x.shape[-1], kernel_init=kernel_init, dtype=self.dtype, name="down")(y)


class Block(nn.Module):
    """A transformer block: pre-norm (ViT) or post-norm (BERT)."""

    heads: int
    mlp_dim: int
    pre_norm: bool = True
    eps: float = 1e-6
    act: str = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """x (B, T, C); mask (B, T) bool or None. Returns (B, T, C) in the dtype of x."""
        attention = Attention(self.heads, self.dtype, name="attention")
        mlp = Mlp(self.mlp_dim, self.act, self.dtype, name="mlp")
        norm1 = nn.LayerNorm(epsilon=self.eps, dtype=self.dtype, name="norm1")
        norm2 = nn.LayerNorm(epsilon=self.eps, dtype=self.dtype, name="norm2")
        if self.pre_norm:
            x = x + attention(norm1(x), mask)
            return x + mlp(norm2(x))
        x = norm1(x + attention(x, mask))
        return norm2(x + mlp(x))


def _rematerialise(fn: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    if remat == "none":
        return fn
    if remat == "full":
        return jax.checkpoint(fn, prevent_cse=False)
    if remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        return jax.checkpoint(fn, policy=policy, prevent_cse=False)
    raise UserError(f"model.remat={remat!r} is unknown; use 'none', 'dots' or 'full'")


class Stack(nn.Module):
    """`depth` blocks whose parameters are stacked on a leading layer axis.

    The parameters are the same scanned (compiles once, for deep models) and unrolled (faster on CPU), so a checkpoint
    does not depend on the choice. With a `layout` each layer's parameters are gathered where it runs, and its
    activations stay with their examples; `root` is the path of this module in the whole model.
    """

    depth: int
    heads: int
    mlp_dim: int
    pre_norm: bool = True
    eps: float = 1e-6
    act: str = "gelu"
    dtype: Any = jnp.float32
    scan: bool = True
    remat: Remat = "none"
    layout: Layout | None = None
    root: str = ""

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        *,
        stop: int | None = None,
        blocks: Sequence[int] = (),
    ) -> tuple[Array, dict[int, Array]]:
        """Run blocks 0..stop-1 (all by default).

        Args:
          x: (B, T, C) tokens.
          mask: (B, T) bool, False = padding, or None.
          stop: number of blocks to run.
          blocks: also return the output of each of these (0-based); -1 = the input of block 0.

        Returns:
          The last output (B, T, C), and block -> its output (B, T, C).
        """
        block = Block(
            self.heads,
            self.mlp_dim,
            self.pre_norm,
            self.eps,
            self.act,
            self.dtype,
            parent=None,  # unbound: its parameters live stacked in this module
        )

        def init_layers(key: Array) -> Any:
            one = lambda k: block.init(k, jnp.zeros((1, 1, x.shape[-1]), x.dtype))["params"]
            return jax.vmap(one)(jax.random.split(key, self.depth))

        layers = self.param("layers", init_layers)
        stop = self.depth if stop is None else stop
        if not 0 <= stop <= self.depth:
            raise UserError(f"cannot run {stop} of {self.depth} blocks")

        def apply(params: Any, y: Array) -> Any:
            return block.apply({"params": params}, y, mask)

        def one_layer(params: Any, y: Array) -> Array:
            params = self._rounded(params)
            if self.layout is None:
                return apply(params, y)
            scope = f"{self.root}/layers"
            params = self.layout.gather(params, scope, dtype=self.dtype, layers=self.depth)
            return self.layout.constrain_batch(apply(params, y))

        if self.layout is not None:
            x = self.layout.constrain_batch(x)
        run = _rematerialise(one_layer, self.remat)
        captured = dict.fromkeys(blocks, x)
        if not self.scan:
            for i in range(stop):
                x = run(jax.tree.map(lambda p, i=i: p[i], layers), x)
                captured |= {i: x} if i in captured else {}
            return x, captured

        if stop < self.depth:
            layers = jax.tree.map(lambda p: p[:stop], layers)
        # The last output is at hand anyway.
        inner = {block: x for block in captured if block != stop - 1}
        if not inner:
            x, _ = jax.lax.scan(lambda y, params: (run(params, y), None), x, layers)
            return x, dict.fromkeys(captured, x)

        def body(
            carry: tuple[Array, dict[int, Array]], layer: tuple[Array, Any]
        ) -> tuple[Any, None]:
            y, seen = carry
            index, params = layer
            y = run(params, y)
            # A select keeps nothing for the backward pass but the predicate.
            return (y, {n: jnp.where(index == n, y, old) for n, old in seen.items()}), None

        (x, inner), _ = jax.lax.scan(body, (x, inner), (jnp.arange(stop), layers))
        return x, {block: inner.get(block, x) for block in captured}

    def _rounded(self, params: Any) -> Any:
        """A layer's matrices as float32 numbers that bfloat16 holds: the cast after it changes nothing.

        A bare cast the compiler would move before the loop over layers, and keep a bfloat16 copy of the whole model
        beside it: 0.34 GB a chip for ViT-B and BERT-base.
        """
        if not self.scan or self.dtype != jnp.bfloat16:
            return params
        bits = jnp.finfo(jnp.bfloat16)
        return jax.tree.map(
            lambda p: p if p.ndim < 2 else jax.lax.reduce_precision(p, bits.nexp, bits.nmant),
            params,
        )
