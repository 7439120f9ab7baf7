"""Attention of single tokens, for decoders that keep the keys and values of earlier ones."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from timix_jax.models.layers import MASKED, softmax

Array = jax.Array


class Kept(NamedTuple):
    """Keys and values by head, the order in which single queries read them without a transposition.

    Attributes:
      key, value: (..., heads, S, D).
    """

    key: Array
    value: Array


def attend_by_head(query: Array, kept: Kept, mask: Array | None = None) -> Array:
    """Apply scaled dot-product attention.

    Args:
      query: (B, heads, Q, D) queries that do not see each other.
      kept: what they read, (B, heads, S, D).
      mask: bool that broadcasts to (B, heads, Q, S), False for keys that are not attended to, or None.

    Returns:
      (B, heads, Q, D) in the dtype of the query.
    """
    logits = jnp.einsum("bhqd,bhsd->bhqs", query / math.sqrt(query.shape[-1]), kept.key)
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    return jnp.einsum("bhqs,bhsd->bhqd", softmax(logits), kept.value)


def self_attend_cached(
    params: Any, x: Array, position: Array, kept: Kept, dtype: Any
) -> tuple[Array, Kept]:
    """Apply causal self-attention to the token at one position, whose key and value join those of earlier tokens.

    Args:
      params: those of `transformer.Attention`: qkv and out.
      x: (R, C) the token of each row.
      position: scalar.
      kept: keys and values (R, heads, T, D) of positions 0..T-1; those from `position` on are not read.
      dtype: of the computation.

    Returns:
      (R, C), and `kept` with this token.
    """
    qkv, out = params["qkv"], params["out"]
    projected = jnp.einsum("rc,cjhd->jrhd", x, qkv["kernel"].astype(dtype))
    query, key, value = projected + qkv["bias"].astype(dtype)[:, None]
    write = lambda whole, new: jax.lax.dynamic_update_slice_in_dim(
        whole, new[:, :, None].astype(whole.dtype), position, axis=2
    )
    kept = Kept(write(kept.key, key), write(kept.value, value))
    seen = jnp.arange(kept.key.shape[2]) <= position
    y = attend_by_head(query[:, :, None], kept, seen)[:, :, 0]
    y = jnp.einsum("rhd,hdc->rc", y, out["kernel"].astype(dtype)) + out["bias"].astype(dtype)
    return y, kept
