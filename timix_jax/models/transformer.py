"""Transformer blocks and a stack of them, scanned or unrolled with the same parameters."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.axes import Axes, declare
from timix_jax.models.dropout import Dropout, Place, drop
from timix_jax.models.layers import attend, gelu, quick_gelu, widening_dot_general
from timix_jax.models.stacked import stacked_layers
from timix_jax.parallel.layout import Layout

Remat = Literal["none", "dots", "full"]
Array = jax.Array

# The exact GELU of ViT and BERT, its tanh form of SigLIP and big_vision, and that of OpenAI's CLIP.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": quick_gelu,
}

# Scaled by fan-in: a fixed 0.02 suits width 768, but keeps small models on a plateau for epochs.
kernel_init = nn.initializers.lecun_normal()
bias_init = nn.initializers.zeros_init()

# Splitting heads and hidden units over the mesh axis `tensor` costs a block one sum over that axis in attention and one
# in the MLP.
QKV = Axes(tensor=-2, muon=((-4,), (-2, -1)), unit="heads")  # (C, 3, heads, C/heads)
QKV_BIAS = Axes(tensor=-2, decay=False, unit="heads")  # (3, heads, C/heads)
OUT = Axes(tensor=-3, muon=((-3, -2), (-1,)), unit="heads")  # (heads, C/heads, C)
_UP = Axes(tensor=-1, muon=((-2,), (-1,)), unit="hidden units")
_UP_BIAS = Axes(tensor=-1, unit="hidden units")
_DOWN = Axes(tensor=-2, muon=((-2,), (-1,)), unit="hidden units")


def activation(name: str) -> Callable[[Array], Array]:
    """Return the activation of `ACTIVATIONS` called `name`."""
    if name not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise UserError(f"model.act={name!r} is unknown; use one of {known}")
    return ACTIVATIONS[name]


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value product."""

    heads: int
    dtype: Any = jnp.float32
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, dropout: Dropout | None = None) -> Array:
        """Map tokens (B, T, C) to (B, T, C); mask (B, T) bool is False for padding; the weights are dropped."""
        width = x.shape[-1]
        weights = None if dropout is None else functools.partial(dropout, place=Place.SELF_WEIGHTS)
        project = nn.DenseGeneral(
            (3, self.heads, width // self.heads),
            kernel_init=declare(kernel_init, QKV),
            bias_init=declare(bias_init, QKV_BIAS),
            dtype=self.dtype,
            dot_general=widening_dot_general,
            name="qkv",
        )
        alone = x.shape[1] == 1 and mask is None and dropout is None
        if alone and not self.is_initializing():
            # A single token attends to itself with weight 1, so that query and key need not be computed.
            kernel, bias = (
                project.variables["params"][name][..., 2, :, :] for name in ("kernel", "bias")
            )
            y = jnp.einsum("btc,chd->bthd", x, kernel.astype(x.dtype)) + bias.astype(x.dtype)
        else:
            qkv = project(x)
            query, key, value = (qkv[:, :, i] for i in range(3))
            y = attend(query, key, value, mask, causal=self.causal, drop=weights)
        return nn.DenseGeneral(
            width,
            axis=(-2, -1),
            kernel_init=declare(kernel_init, OUT),
            dtype=self.dtype,
            name="out",
        )(y)


class Mlp(nn.Module):
    """Two-layer perceptron of a block."""

    hidden: int
    act: str = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map (..., C) to (..., C)."""
        y = nn.Dense(
            self.hidden,
            kernel_init=declare(kernel_init, _UP),
            bias_init=declare(bias_init, _UP_BIAS),
            dtype=self.dtype,
            dot_general=widening_dot_general,
            name="up",
        )(x)
        y = activation(self.act)(y)
        return nn.Dense(
            x.shape[-1], kernel_init=declare(kernel_init, _DOWN), dtype=self.dtype, name="down"
        )(y)


class Block(nn.Module):
    """A transformer block: pre-norm (ViT) or post-norm (BERT)."""

    heads: int
    mlp_dim: int
    pre_norm: bool = True
    eps: float = 1e-6
    act: str = "gelu"
    dtype: Any = jnp.float32
    causal: bool = False

    @nn.compact
    def __call__(
        self, x: Array, mask: Array | None = None, dropout: Dropout | None = None
    ) -> Array:
        """Map tokens (B, T, C) to (B, T, C) of the same dtype; mask (B, T) bool is False for padding, or None."""
        attention = Attention(self.heads, self.dtype, self.causal, name="attention")
        mlp = Mlp(self.mlp_dim, self.act, self.dtype, name="mlp")
        norm1 = nn.LayerNorm(epsilon=self.eps, dtype=self.dtype, name="norm1")
        norm2 = nn.LayerNorm(epsilon=self.eps, dtype=self.dtype, name="norm2")
        if self.pre_norm:
            x = x + drop(dropout, attention(norm1(x), mask, dropout), Place.SELF_OUTPUT)
            return x + drop(dropout, mlp(norm2(x)), Place.MLP_OUTPUT)
        x = norm1(x + drop(dropout, attention(x, mask, dropout), Place.SELF_OUTPUT))
        return norm2(x + drop(dropout, mlp(x), Place.MLP_OUTPUT))


def rematerialise(fn: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """Return the function of a layer with what its backward pass recomputes."""
    if remat == "none":
        return fn
    if remat == "full":
        return jax.checkpoint(fn, prevent_cse=False)
    if remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        return jax.checkpoint(fn, policy=policy, prevent_cse=False)
    raise UserError(f"model.remat={remat!r} is unknown; use 'none', 'dots' or 'full'")


def rounded(params: Any, dtype: Any) -> Any:
    """Round a scanned layer's float32 matrices to bfloat16 values, so that the later cast changes nothing.

    The compiler would hoist a bare cast out of the loop over layers and keep a bfloat16 copy of the whole model:
    0.34 GB per chip for ViT-B and BERT-base.
    """
    if dtype != jnp.bfloat16:
        return params
    bits = jnp.finfo(jnp.bfloat16)
    return jax.tree.map(
        lambda p: p if p.ndim < 2 else jax.lax.reduce_precision(p, bits.nexp, bits.nmant), params
    )


class Stack(nn.Module):
    """`depth` blocks whose parameters are stacked on a leading layer axis.

    Scanned (one compilation for deep models) and unrolled (faster on CPUs) stacks have the same parameters, so a
    checkpoint does not depend on the choice. With a `layout`, a layer's parameters are gathered when it runs, and its
    activations stay split by example; `root` is the path of this module in the whole model.
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
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        dropout: Dropout | None = None,
        *,
        stop: int | None = None,
        blocks: Sequence[int] = (),
    ) -> tuple[Array, dict[int, Array]]:
        """Run blocks 0..stop-1 (all by default).

        Args:
          x: (B, T, C) tokens.
          mask: (B, T) bool, False for padding, or None.
          dropout: of B rows; None for none.
          stop: number of blocks to run.
          blocks: blocks (0-based) whose output is also returned; -1 is the input of block 0.

        Returns:
          The last output (B, T, C), and a dict from block to its output (B, T, C).
        """
        block = Block(
            self.heads,
            self.mlp_dim,
            self.pre_norm,
            self.eps,
            self.act,
            self.dtype,
            self.causal,
            parent=None,  # unbound: this module holds its parameters, stacked
        )

        one = lambda key: block.init(key, jnp.zeros((1, 1, x.shape[-1]), x.dtype))["params"]
        own = stacked_layers(self, one, self.depth)
        layers = (own, dropout and dropout.by_layer(self.depth))
        stop = self.depth if stop is None else stop
        if not 0 <= stop <= self.depth:
            raise UserError(f"cannot run {stop} of {self.depth} blocks")

        def apply(params: Any, y: Array, of_layer: Dropout | None) -> Any:
            return block.apply({"params": params}, y, mask, of_layer)

        def one_layer(layer: tuple[Any, Dropout | None], y: Array) -> Array:
            params, of_layer = layer
            params = rounded(params, self.dtype) if self.scan else params
            if self.layout is None:
                return apply(params, y, of_layer)
            scope = f"{self.root}/layers"
            params = self.layout.gather(params, scope, dtype=self.dtype, layers=self.depth)
            return self.layout.constrain_batch(apply(params, y, of_layer))

        if self.layout is not None:
            x = self.layout.constrain_batch(x)
        run = rematerialise(one_layer, self.remat)
        captured = dict.fromkeys(blocks, x)
        if not self.scan:
            for i in range(stop):
                x = run(jax.tree.map(lambda p, i=i: p[i], layers), x)
                captured |= {i: x} if i in captured else {}
            return x, captured

        if stop < self.depth:
            layers = jax.tree.map(lambda p: p[:stop], layers)
        # The scan returns the last output anyway.
        inner = {block: x for block in captured if block != stop - 1}
        if not inner:
            x, _ = jax.lax.scan(lambda y, layer: (run(layer, y), None), x, layers)
            return x, dict.fromkeys(captured, x)

        def body(
            carry: tuple[Array, dict[int, Array]], layer: tuple[Array, Any]
        ) -> tuple[Any, None]:
            y, seen = carry
            index, own = layer
            y = run(own, y)
            # The backward pass of a select needs only the predicate.
            return (y, {n: jnp.where(index == n, y, old) for n, old in seen.items()}), None

        (x, inner), _ = jax.lax.scan(body, (x, inner), (jnp.arange(stop), layers))
        return x, {block: inner.get(block, x) for block in captured}
