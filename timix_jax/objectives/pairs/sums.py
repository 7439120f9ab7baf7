"""Reductions over all pairs of a global batch, each with a hand-written backward pass.

With s_ij = scale·⟨x_i, t_j⟩ + bias over x, t (N, D):

    pair_logsumexp   log Σ_j exp s_ij and log Σ_i exp s_ij
    pair_softplus    Σ_j log(1 + exp s_ij)
    pair_attention   Σ_j w_ij v_j, w the softmax of s's rows or the sigmoid of s

Arrays are global. Each forward and backward pass is a sweep over tiles (`sweep`): no device ever holds s or, in the
ring, all embeddings or their gradients, and automatic differentiation does not go through shard_map.

Sums are float32 or wider. Products use the embeddings' dtype; float32 products are exact, even on devices whose default
precision is lower: at τ = 0.01 the rounding error of a bfloat16 product would be a fifth of a nat.

The first two take `apart`, int32 (N, K): pairs (i, j), i ≠ j, of which one names the other are left out of the sums.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from timix_jax.objectives.pairs.sweep import PairReduction, Part, Place, sweep
from timix_jax.objectives.pairs.tiles import (
    LOWEST,
    Side,
    initial_rank,
    product,
    sum_dtype,
    tile_similarities,
    update_rank,
    weighted_sum,
)

Array = jax.Array
Kernel = Literal["softmax", "sigmoid"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def pair_logsumexp(
    x: Array, t: Array, scale: Array, reduction: PairReduction, apart: Array | None = None
) -> tuple[Array, Array, Array]:
    """Return log Σ_j exp s_ij (N,) per row of x, log Σ_i exp s_ij (N,) per row of t, and the hits (N,) bool.

    Row i is a hit if s_ii is above every other score of its row and column; ties are misses. Differentiable in x, t and
    scale.
    """
    return _logsumexp_forward(x, t, scale, reduction, apart)[0]


def _logsumexp_forward(
    x: Array, t: Array, scale: Array, reduction: PairReduction, apart: Array | None
) -> tuple[Any, Any]:
    dtype = sum_dtype(x)

    def update(shared: Any, rows: Side, columns: Side, place: Place, sums: Any) -> Any:
        top, total, *rank = sums
        s = tile_similarities(shared, rows, columns, place)
        new = jnp.maximum(top, s.max(axis=1))
        total = total * jnp.exp(top - new) + jnp.exp(s - new[:, None]).sum(axis=1)
        return new, total, *update_rank(s, place, rank)

    def init(n: int) -> Any:
        return jnp.full(n, LOWEST, dtype), jnp.zeros(n, dtype), *initial_rank(n, dtype)

    # The second direction computes the same similarities again.
    again = jax.named_scope("recomputed")(update)
    images, texts = Side(x, apart), Side(t, apart)
    parts = [Part(update, images, texts, init), Part(again, texts, images, init)]
    (top, total, own, best), (top_t, total_t, _, best_t) = sweep(
        parts, (scale, jnp.zeros_like(scale)), reduction
    )
    rows, columns = top + jnp.log(total), top_t + jnp.log(total_t)
    hits = own > jnp.maximum(best, best_t)
    return (rows, columns, hits), (images, texts, scale, rows, columns)


def _logsumexp_backward(reduction: PairReduction, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    x, t, scale, rows, columns = saved
    to_rows, to_columns, _ = cotangents

    def weight(s: Array, row: Array, column: Array) -> Array:
        shares = [jnp.exp(s - lse) * cotangent for lse, cotangent in (row, column)]
        return shares[0] + shares[1]

    by_x = jnp.stack([rows, to_rows], axis=1)
    by_t = jnp.stack([columns, to_columns], axis=1)
    parts = [
        weighted_sum(weight, x, by_x, t, by_t, t.embedding),
        weighted_sum(weight, t, by_t, x, by_x, x.embedding),
    ]
    (to_x, _), (to_t, _) = sweep(parts, (scale, jnp.zeros_like(scale)), reduction)
    return *_pulled_back(x, t, scale, to_x, to_t), None


pair_logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def pair_softplus(
    x: Array,
    t: Array,
    scale: Array,
    bias: Array,
    reduction: PairReduction,
    apart: Array | None = None,
) -> tuple[Array, Array]:
    """Return Σ_j log(1 + exp s_ij) (N,) per row of x, and the hits (N,) as in `pair_logsumexp`.

    Differentiable in x, t, scale and bias.
    """
    return _softplus_forward(x, t, scale, bias, reduction, apart)[0]


def _softplus_forward(
    x: Array, t: Array, scale: Array, bias: Array, reduction: PairReduction, apart: Array | None
) -> tuple[Any, Any]:
    dtype = sum_dtype(x)

    def update(shared: Any, rows: Side, columns: Side, place: Place, sums: Any) -> Any:
        total, *rank = sums
        s = tile_similarities(shared, rows, columns, place)
        return total + jax.nn.softplus(s).sum(axis=1), *update_rank(s, place, rank)

    @jax.named_scope("recomputed")
    def rank_only(shared: Any, rows: Side, columns: Side, place: Place, sums: Any) -> Any:
        return update_rank(tile_similarities(shared, rows, columns, place), place, sums)

    images, texts = Side(x, apart), Side(t, apart)
    parts = [
        Part(update, images, texts, lambda n: (jnp.zeros(n, dtype), *initial_rank(n, dtype))),
        Part(rank_only, texts, images, lambda n: initial_rank(n, dtype)),
    ]
    (total, own, best), (_, best_t) = sweep(parts, (scale, bias), reduction)
    return (total, own > jnp.maximum(best, best_t)), (images, texts, scale, bias)


def _softplus_backward(reduction: PairReduction, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    x, t, scale, bias = saved
    by_x = cotangents[0][:, None]

    def weight(s: Array, row: Any, column: Any) -> Array:
        return (row if column is None else column)[0] * jax.nn.sigmoid(s)

    parts = [
        weighted_sum(weight, x, by_x, t, None, t.embedding),
        weighted_sum(weight, t, None, x, by_x, x.embedding),
    ]
    (to_x, mass), (to_t, _) = sweep(parts, (scale, bias), reduction)
    to_bias = mass.sum().astype(bias.dtype)
    return *_pulled_back(x, t, scale, to_x, to_t), to_bias, None


pair_softplus.defvjp(_softplus_forward, _softplus_backward)


def _pulled_back(x: Side, t: Side, scale: Array, to_x: Array, to_t: Array) -> tuple[Any, ...]:
    """Return the cotangents of x, t and scale from Σ_j w_ij t_j and Σ_i w_ij x_i, where w = ∂/∂s."""
    images, texts = x.embedding, t.embedding
    # Σ_ij w_ij ⟨x_i, t_j⟩ = Σ_i ⟨x_i, Σ_j w_ij t_j⟩ needs no further sweep.
    to_scale = jnp.sum(images.astype(to_x.dtype) * to_x).astype(scale.dtype)
    return (scale * to_x).astype(images.dtype), (scale * to_t).astype(texts.dtype), to_scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def pair_attention(
    q: Array,
    k: Array,
    values: Array,
    masses: Array,
    scale: Array,
    bias: Array,
    kernel: Kernel,
    reduction: PairReduction,
) -> tuple[Array, Array]:
    """Return Σ_j w_ij values_j (N, Dv) and Σ_j w_ij masses_j (N,), with s_ij = scale·⟨q_i, k_j⟩ + bias.

    Differentiable only in `values`: w is part of a target and therefore a constant.

    Args:
      q, k: (N, D) embeddings.
      values: (N, Dv) vectors to sum.
      masses: (N,) scalars to sum with the same weights.
      kernel: "softmax", w = softmax of s's rows; "sigmoid", w = σ(s).
    """
    return _attention_forward(q, k, values, masses, scale, bias, kernel, reduction)[0]


def _attention_forward(
    q: Array,
    k: Array,
    values: Array,
    masses: Array,
    scale: Array,
    bias: Array,
    kernel: Kernel,
    reduction: PairReduction,
) -> tuple[Any, Any]:
    dtype = sum_dtype(q)

    def update(shared: Any, q: Array, columns: Any, place: Place, sums: Any) -> Any:
        k, values, masses = columns
        top, total, out, mass = sums
        s = tile_similarities(shared, Side(q), Side(k), place)
        if kernel == "sigmoid":
            new, keep, w = top, jnp.ones_like(top), jax.nn.sigmoid(s)
        else:
            new = jnp.maximum(top, s.max(axis=1))
            keep, w = jnp.exp(top - new), jnp.exp(s - new[:, None])
        total = keep * total + w.sum(axis=1)
        out = keep[:, None] * out + product(w, values)
        return new, total, out, keep * mass + product(w, masses.astype(w.dtype))

    def init(n: int) -> Any:
        zeros = jnp.zeros(n, dtype)
        return jnp.full(n, LOWEST, dtype), zeros, jnp.zeros((n, values.shape[1]), dtype), zeros

    part = Part(update, q, (k, values, masses), init)
    ((top, total, out, mass),) = sweep([part], (scale, bias), reduction)
    if kernel == "softmax":
        out, mass = out / total[:, None], mass / total
    # The backward pass needs only the dtype of the values.
    saved = q, k, scale, bias, top + jnp.log(total), jnp.zeros((0,), values.dtype)
    return (out, mass), saved


def _attention_backward(
    kernel: Kernel, reduction: PairReduction, saved: Any, cotangents: Any
) -> tuple[Any, ...]:
    q, k, scale, bias, lse, like = saved

    def weight(s: Array, row: Any, column: Any) -> Array:
        del row
        return jax.nn.sigmoid(s) if kernel == "sigmoid" else jnp.exp(s - column[0])

    part = weighted_sum(weight, Side(k), None, Side(q), lse[:, None], cotangents[0])
    ((to_values, _),) = sweep([part], (scale, bias), reduction)
    return None, None, to_values.astype(like.dtype), None, None, None


pair_attention.defvjp(_attention_forward, _attention_backward)
