"""Reductions over all pairs of two sides of a global batch, with their own backward sweeps.

With s_ij = scale·⟨x_i, t_j⟩ + bias over x, t (N, D):

    pair_logsumexp   log Σ_j exp s_ij and log Σ_i exp s_ij
    pair_softplus    Σ_j log(1 + exp s_ij)
    pair_attention   Σ_j w_ij v_j, w the softmax of s's rows or the sigmoid of s

Arrays are global. Each forward and each backward pass is a sweep over tiles (`pair_sweep`), so that
neither s nor, in the ring, all embeddings or their gradients are ever on one device, and no
automatic differentiation goes through shard_map.

Sums are kept in float32 at least. Products take the embeddings' dtype; where it is float32 they are
exact float32 products also on devices whose default is less: at τ = 0.01 the rounding of a
bfloat16 product would be a fifth of a nat.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.objectives.pairs.pair_sweep import PairReduction, Part, Place, sweep

Array = jax.Array
Kernel = Literal["softmax", "sigmoid"]
# Finite, as −∞ − (−∞) is not a number; far below any similarity over a temperature.
LOWEST = -1e30


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def pair_logsumexp(
    x: Array, t: Array, scale: Array, reduction: PairReduction
) -> tuple[Array, Array, Array]:
    """log Σ_j exp s_ij (N,) by x, log Σ_i exp s_ij (N,) by t, and the hits (N,).

    A hit is a bool: the own pair s_ii is above all others of its row and of its column; ties count
    as misses. Gradients: x, t, scale.
    """
    return _logsumexp_forward(x, t, scale, reduction)[0]


def _logsumexp_forward(
    x: Array, t: Array, scale: Array, reduction: PairReduction
) -> tuple[Any, Any]:
    dtype = _sum_dtype(x)

    def update(shared: Any, a: Array, b: Array, place: Place, sums: Any) -> Any:
        top, total, *rank = sums
        s = _scores(shared, a, b, place)
        new = jnp.maximum(top, s.max(axis=1))
        total = total * jnp.exp(top - new) + jnp.exp(s - new[:, None]).sum(axis=1)
        return new, total, *_rank(s, place, rank)

    def init(n: int) -> Any:
        return jnp.full(n, LOWEST, dtype), jnp.zeros(n, dtype), *_rank_init(n, dtype)

    # The second direction repeats the similarities of the first.
    again = jax.named_scope("recomputed")(update)
    parts = [Part(update, x, t, init), Part(again, t, x, init)]
    (top, total, own, best), (top_t, total_t, _, best_t) = sweep(
        parts, (scale, jnp.zeros_like(scale)), reduction
    )
    rows, columns = top + jnp.log(total), top_t + jnp.log(total_t)
    hits = own > jnp.maximum(best, best_t)
    return (rows, columns, hits), (x, t, scale, rows, columns)


def _logsumexp_backward(reduction: PairReduction, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    x, t, scale, rows, columns = saved
    to_rows, to_columns, _ = cotangents

    def weight(s: Array, row: Array, column: Array) -> Array:
        shares = [jnp.exp(s - lse) * cotangent for lse, cotangent in (row, column)]
        return shares[0] + shares[1]

    by_x = jnp.stack([rows, to_rows], axis=1)
    by_t = jnp.stack([columns, to_columns], axis=1)
    parts = [
        _weighted_sum(weight, x, by_x, t, by_t, t),
        _weighted_sum(weight, t, by_t, x, by_x, x),
    ]
    (to_x, _), (to_t, _) = sweep(parts, (scale, jnp.zeros_like(scale)), reduction)
    return _pulled_back(x, t, scale, to_x, to_t)


pair_logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def pair_softplus(
    x: Array, t: Array, scale: Array, bias: Array, reduction: PairReduction
) -> tuple[Array, Array]:
    """Σ_j log(1 + exp s_ij) (N,) by x, and the hits (N,) of `pair_logsumexp`.

    Gradients: x, t, scale, bias.
    """
    return _softplus_forward(x, t, scale, bias, reduction)[0]


def _softplus_forward(
    x: Array, t: Array, scale: Array, bias: Array, reduction: PairReduction
) -> tuple[Any, Any]:
    dtype = _sum_dtype(x)

    def update(shared: Any, a: Array, b: Array, place: Place, sums: Any) -> Any:
        total, *rank = sums
        s = _scores(shared, a, b, place)
        return total + jax.nn.softplus(s).sum(axis=1), *_rank(s, place, rank)

    @jax.named_scope("recomputed")
    def rank_only(shared: Any, a: Array, b: Array, place: Place, sums: Any) -> Any:
        return _rank(_scores(shared, a, b, place), place, sums)

    parts = [
        Part(update, x, t, lambda n: (jnp.zeros(n, dtype), *_rank_init(n, dtype))),
        Part(rank_only, t, x, lambda n: _rank_init(n, dtype)),
    ]
    (total, own, best), (_, best_t) = sweep(parts, (scale, bias), reduction)
    return (total, own > jnp.maximum(best, best_t)), (x, t, scale, bias)


def _softplus_backward(reduction: PairReduction, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    x, t, scale, bias = saved
    by_x = cotangents[0][:, None]

    def weight(s: Array, row: Any, column: Any) -> Array:
        return (row if column is None else column)[0] * jax.nn.sigmoid(s)

    parts = [
        _weighted_sum(weight, x, by_x, t, None, t),
        _weighted_sum(weight, t, None, x, by_x, x),
    ]
    (to_x, mass), (to_t, _) = sweep(parts, (scale, bias), reduction)
    to_bias = mass.sum().astype(bias.dtype)
    return *_pulled_back(x, t, scale, to_x, to_t), to_bias


pair_softplus.defvjp(_softplus_forward, _softplus_backward)


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
    """Σ_j w_ij values_j (N, Dv) and Σ_j w_ij masses_j (N,); s_ij = scale·⟨q_i, k_j⟩ + bias.

    Only `values` has a gradient: w is a constant, as a target is.

    Args:
      q, k: (N, D).
      values: (N, Dv).
      masses: (N,) further values, one number each.
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
    dtype = _sum_dtype(q)

    def update(shared: Any, q: Array, columns: Any, place: Place, sums: Any) -> Any:
        k, values, masses = columns
        top, total, out, mass = sums
        s = _scores(shared, q, k, place)
        if kernel == "sigmoid":
            new, keep, w = top, jnp.ones_like(top), jax.nn.sigmoid(s)
        else:
            new = jnp.maximum(top, s.max(axis=1))
            keep, w = jnp.exp(top - new), jnp.exp(s - new[:, None])
        total = keep * total + w.sum(axis=1)
        out = keep[:, None] * out + _product(w, values)
        return new, total, out, keep * mass + _product(w, masses.astype(w.dtype))

    def init(n: int) -> Any:
        zeros = jnp.zeros(n, dtype)
        return jnp.full(n, LOWEST, dtype), zeros, jnp.zeros((n, values.shape[1]), dtype), zeros

    part = Part(update, q, (k, values, masses), init)
    ((top, total, out, mass),) = sweep([part], (scale, bias), reduction)
    if kernel == "softmax":
        out, mass = out / total[:, None], mass / total
    # The values themselves are not needed any more, their shape and dtype are.
    saved = q, k, scale, bias, top + jnp.log(total), jnp.zeros((0,), values.dtype)
    return (out, mass), saved


def _attention_backward(
    kernel: Kernel, reduction: PairReduction, saved: Any, cotangents: Any
) -> tuple[Any, ...]:
    q, k, scale, bias, lse, like = saved

    def weight(s: Array, row: Any, column: Any) -> Array:
        del row
        return jax.nn.sigmoid(s) if kernel == "sigmoid" else jnp.exp(s - column[0])

    part = _weighted_sum(weight, k, None, q, lse[:, None], cotangents[0])
    ((to_values, _),) = sweep([part], (scale, bias), reduction)
    return None, None, to_values.astype(like.dtype), None, None, None


pair_attention.defvjp(_attention_forward, _attention_backward)


def _weighted_sum(
    weight: Callable[[Array, Any, Any], Array],
    x: Array,
    by_x: Array | None,
    t: Array,
    by_t: Array | None,
    values: Array,
) -> Part:
    """Σ_j w_ij values_j and Σ_j w_ij, w_ij = weight(s_ij, by_x_i, by_t_j).

    `by_x`, `by_t` (N, k): numbers of each row and column, or None; `weight` gets them as
    (k, n, 1) and (k, 1, m). It must be 0 where s is −∞: that is padding. `values` may be `t`
    itself, which then travels once.
    """
    dtype = _sum_dtype(x)
    same = values is t

    def update(shared: Any, rows: Any, columns: Any, place: Place, sums: Any) -> Any:
        x, by_x = rows
        t, by_t, *rest = columns
        row = None if by_x is None else by_x.T[:, :, None]
        column = None if by_t is None else by_t.T[:, None, :]
        with jax.named_scope("recomputed"):  # as `training.flops` counts it
            s = _scores(shared, x, t, place)
        w = weight(s, row, column)
        return sums[0] + _product(w, t if same else rest[0]), sums[1] + w.sum(axis=1)

    def init(n: int) -> Any:
        return jnp.zeros((n, values.shape[1]), dtype), jnp.zeros(n, dtype)

    return Part(update, (x, by_x), (t, by_t) if same else (t, by_t, values), init)


def _scores(shared: Any, a: Array, b: Array, place: Place) -> Array:
    """s of a tile, (n, m); −∞ in columns that are padding."""
    s = _contract(a, b, ((1,), (1,)))
    scale, bias = (number.astype(s.dtype) for number in shared)
    return jnp.where(place.column >= 0, scale * s + bias, -jnp.inf)


def _product(w: Array, values: Array) -> Array:
    """w @ values in the values' dtype, summed in float32 at least."""
    return _contract(w.astype(values.dtype), values, ((1,), (0,)))


def _contract(a: Array, b: Array, over: Any) -> Array:
    return lax.dot_general(
        a,
        b,
        (over, ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=_sum_dtype(a),
    )


def _sum_dtype(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _rank_init(n: int, dtype: Any) -> tuple[Array, Array]:
    return jnp.full(n, -jnp.inf, dtype), jnp.full(n, -jnp.inf, dtype)


def _rank(s: Array, place: Place, rank: Any) -> tuple[Array, Array]:
    """The own pair's score and the best other one, so far."""
    own, best = rank
    same = place.row[:, None] == place.column[None, :]
    return (
        jnp.maximum(own, jnp.where(same, s, -jnp.inf).max(axis=1)),
        jnp.maximum(best, jnp.where(same, -jnp.inf, s).max(axis=1)),
    )


def _pulled_back(x: Array, t: Array, scale: Array, to_x: Array, to_t: Array) -> tuple[Any, ...]:
    """Cotangents of x, t and scale from Σ_j w_ij t_j and Σ_i w_ij x_i, w = ∂/∂s."""
    # Σ_ij w_ij ⟨x_i, t_j⟩ is the same as Σ_i ⟨x_i, Σ_j w_ij t_j⟩: no sweep of its own.
    to_scale = jnp.sum(x.astype(to_x.dtype) * to_x).astype(scale.dtype)
    return (scale * to_x).astype(x.dtype), (scale * to_t).astype(t.dtype), to_scale
