"""GELU, softmax, attention and a matrix product in forms that XLA runs fast on CPUs.

Each is mathematically the same as its counterpart in `jax` or `flax`; benchmarks/open_clip_step.py compares them with
PyTorch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

MASKED = -1e30  # logit without weight; finite, so that a fully masked row gives no NaN


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Compute exact GELU, x·Φ(x), with erf in float32 or wider; the result has the dtype of x.

    `jax.nn.gelu` uses erfc, which takes four times as long on CPUs, and saves three arrays for the backward pass
    instead of the input.
    """
    wide = _widened(x)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, cotangent: Array) -> tuple[Array]:
    wide = _widened(x)
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    return ((_widened(cotangent) * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def quick_gelu(x: Array) -> Array:
    """Compute x·σ(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def _widened(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + lax.erf(x * math.sqrt(0.5)))


@jax.custom_vjp
def softmax(logits: Array) -> Array:
    """Compute softmax over the last axis in float32 or wider; the result has the dtype of the logits.

    The gradient needs only the rounded weights. The derivative of a plain softmax would also save the float32 weights,
    the largest array of a block.
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.nn.softmax(wide).astype(logits.dtype)


def _softmax_forward(logits: Array) -> tuple[Array, Array]:
    weights = softmax(logits)
    return weights, weights


def _softmax_backward(weights: Array, cotangent: Array) -> tuple[Array]:
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    product = weights.astype(wide) * cotangent.astype(wide)
    total = jnp.sum(product, axis=-1, keepdims=True)
    return ((product - weights.astype(wide) * total).astype(weights.dtype),)


softmax.defvjp(_softmax_forward, _softmax_backward)


def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    causal: bool = False,
    drop: Callable[[Array], Array] | None = None,
) -> Array:
    """Apply scaled dot-product attention in all heads.

    Moving heads before tokens explicitly halves the time on CPUs, where XLA would otherwise transpose the (T, T)
    matrices.

    Args:
      query: (B, T, heads, D).
      key, value: (B, S, heads, D) of the same dtype.
      mask: (B, S) bool, False for keys that are not attended to, or None.
      causal: no token attends to later ones; needs S = T.
      drop: what dropout does to the weights (B, heads, T, S); None for no dropout.

    Returns:
      (B, T, heads, D) in that dtype.
    """
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    logits = jnp.einsum("bhtd,bhsd->bhts", query / math.sqrt(query.shape[-1]), key)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, MASKED)
    if causal:
        logits = jnp.where(jnp.tri(query.shape[2], dtype=bool), logits, MASKED)
    weights = softmax(logits)
    if drop is not None:
        weights = drop(weights)
    return jnp.einsum("bhts,bhsd->bhtd", weights, value).transpose(0, 2, 1, 3)


def widening_dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Compute the product of a dense layer, (..., C) by (C, F...) with F > C; for flax's argument `dot_general`.

    The kernel's gradient is written so that XLA on CPUs transposes the narrow input instead of the wide cotangent, in
    half the time.
    """
    if dimension_numbers != (((lhs.ndim - 1,), (0,)), ((), ())):
        raise ValueError(f"{dimension_numbers} is not the product of a dense layer")
    del preferred_element_type  # flax passes none
    return _widening_product(lhs, rhs, precision)


def _product(lhs: Array, rhs: Array, axes: Any, precision: Any) -> Array:
    return lax.dot_general(lhs, rhs, (axes, ((), ())), precision=precision)


def _widening_product_forward(
    lhs: Array, rhs: Array, precision: Any
) -> tuple[Array, tuple[Array, Array]]:
    return _product(lhs, rhs, ((lhs.ndim - 1,), (0,)), precision), (lhs, rhs)


def _widening_product_backward(
    precision: Any, operands: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    lhs, rhs = operands
    batch = tuple(range(lhs.ndim - 1))
    features = tuple(range(lhs.ndim - 1, cotangent.ndim))
    into_lhs = _product(cotangent, rhs, (features, tuple(range(1, rhs.ndim))), precision)
    into_rhs = _product(lhs, cotangent, (batch, batch), precision)
    return into_lhs, into_rhs


_widening_product = jax.custom_vjp(
    lambda lhs, rhs, precision: _widening_product_forward(lhs, rhs, precision)[0],
    nondiff_argnums=(2,),
)
_widening_product.defvjp(_widening_product_forward, _widening_product_backward)


def unit_norm(x: Array) -> Array:
    """L2-normalise the last axis in float32 or wider."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
