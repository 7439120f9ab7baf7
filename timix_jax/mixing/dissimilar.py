"""Partners whose captions have little in common: what is pasted should be something the own caption does not name."""

import jax
import jax.numpy as jnp


def least_alike(tokens: jax.Array, candidates: jax.Array) -> jax.Array:
    """Choose for each row the candidate whose caption shares least with its own, int32 (B,).

    Several rows may choose the same partner. On ties, the first candidate is taken.

    Args:
      tokens: int32 (B, T) captions.
      candidates: int32 (K, B) possible partners of each row.
    """
    weight = 1 / captions_with(tokens)
    alike = jax.lax.map(lambda partner: common_weight(tokens, tokens[partner], weight), candidates)
    best = jnp.argmin(alike, axis=0)
    return jnp.take_along_axis(candidates, best[None], axis=0)[0]


def common_weight(tokens: jax.Array, others: jax.Array, weight: jax.Array) -> jax.Array:
    """Return the summed weight of the tokens of each caption that the other caption has too, float32 (B,).

    Args:
      tokens: int32 (B, T) captions.
      others: int32 (B, T) a caption to compare each with.
      weight: float32 (B, T) of each token.
    """
    common = jnp.any(tokens[:, :, None] == others[:, None, :], axis=2)
    return jnp.sum(jnp.where(common, weight, 0), axis=1)


def captions_with(tokens: jax.Array) -> jax.Array:
    """Return in how many captions of the batch each token (B, T) occurs, int32 (B, T).

    By sorting, whatever the size of the vocabulary: padding and "a" occur in nearly all, so that they hardly count.
    """
    order = jnp.sort(tokens, axis=1)
    first = jnp.concatenate([jnp.ones_like(order[:, :1], bool), order[:, 1:] != order[:, :-1]], 1)
    # A token that occurs twice in a caption counts once: repetitions are moved behind all others.
    once = jnp.sort(jnp.where(first, order, jnp.iinfo(order.dtype).max), axis=None)
    end = jnp.searchsorted(once, tokens, side="right")
    return (end - jnp.searchsorted(once, tokens, side="left")).astype(jnp.int32)
