"""One tile of all pairs: its similarities, weighted sums over it, and the rank of each row's own pair.

`sums` builds its reductions from these.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.objectives.pairs.sweep import Part, Place

Array = jax.Array
# Far below any similarity over a temperature, yet finite: −∞ − (−∞) is NaN.
LOWEST = -1e30
OWN_PAIR = -2
"""In `apart`: the row is not compared with its own column."""


class Side(NamedTuple):
    """The rows or columns of a tile.

    Attributes:
      embedding: (n, D).
      apart: int32 (n, K), for each of them K indices of the other side that it is not compared with; its own index
        is ignored, but `OWN_PAIR` stands for it. None: all pairs are compared.
    """

    embedding: Array
    apart: Array | None = None


def tile_similarities(shared: Any, rows: Side, columns: Side, place: Place) -> Array:
    """Return s of a tile, (n, m), with −∞ in padded columns and where a pair is not compared."""
    s = _contract(rows.embedding, columns.embedding, ((1,), (1,)))
    scale, bias = (number.astype(s.dtype) for number in shared)
    s = jnp.where(place.column >= 0, scale * s + bias, -jnp.inf)
    if rows.apart is None or columns.apart is None:
        return s
    skipped = apart_pairs(place.row, rows.apart, place.column, columns.apart)
    return jnp.where(skipped, -jnp.inf, s)


def apart_pairs(row: Array, row_apart: Array, column: Array, column_apart: Array) -> Array:
    """Return bool (n, m): True for the pairs that are not compared, because either side names the other.

    Args:
      row, column: int32 (n,) and (m,) indices.
      row_apart, column_apart: int32 (n, K) and (m, K), see `Side`.
    """
    by_row = (row_apart[:, :, None] == column).any(axis=1)
    by_column = (row[:, None, None] == column_apart).any(axis=2)
    same = row[:, None] == column
    without_own = (row_apart == OWN_PAIR).any(axis=1)[:, None]
    return jnp.where(same, without_own, by_row | by_column)


def weighted_sum(
    weight: Callable[[Array, Any, Any], Array],
    x: Side,
    by_x: Array | None,
    t: Side,
    by_t: Array | None,
    values: Array,
) -> Part:
    """Return the part that computes Σ_j w_ij values_j and Σ_j w_ij, with w_ij = weight(s_ij, by_x_i, by_t_j).

    `by_x` and `by_t` (N, k) hold numbers per row and column, or are None; `weight` receives them as (k, n, 1) and
    (k, 1, m). It must be 0 where s is −∞, which marks padding. `values` may be `t.embedding` itself, which is then
    sent once.
    """
    dtype = sum_dtype(x.embedding)
    same = values is t.embedding

    def update(shared: Any, rows: Any, columns: Any, place: Place, sums: Any) -> Any:
        x, by_x = rows
        t, by_t, *rest = columns
        row = None if by_x is None else by_x.T[:, :, None]
        column = None if by_t is None else by_t.T[:, None, :]
        with jax.named_scope("recomputed"):  # `training.flops` counts it apart
            s = tile_similarities(shared, x, t, place)
        w = weight(s, row, column)
        return sums[0] + product(w, t.embedding if same else rest[0]), sums[1] + w.sum(axis=1)

    def init(n: int) -> Any:
        return jnp.zeros((n, values.shape[1]), dtype), jnp.zeros(n, dtype)

    return Part(update, (x, by_x), (t, by_t) if same else (t, by_t, values), init)


def product(w: Array, values: Array) -> Array:
    """Return w @ values, multiplied in the values' dtype and summed in float32 or wider."""
    return _contract(w.astype(values.dtype), values, ((1,), (0,)))


def _contract(a: Array, b: Array, over: Any) -> Array:
    return lax.dot_general(
        a,
        b,
        (over, ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=sum_dtype(a),
    )


def sum_dtype(x: Array) -> Any:
    """Return the dtype of sums over x: float32 or wider."""
    return jnp.promote_types(x.dtype, jnp.float32)


def initial_rank(n: int, dtype: Any) -> tuple[Array, Array]:
    """Return the accumulators of `update_rank` before the first tile."""
    return jnp.full(n, -jnp.inf, dtype), jnp.full(n, -jnp.inf, dtype)


def update_rank(s: Array, place: Place, rank: Any) -> tuple[Array, Array]:
    """Update each row's similarity of its own pair, and its best similarity of another pair."""
    own, best = rank
    same = place.row[:, None] == place.column[None, :]
    return (
        jnp.maximum(own, jnp.where(same, s, -jnp.inf).max(axis=1)),
        jnp.maximum(best, jnp.where(same, -jnp.inf, s).max(axis=1)),
    )
