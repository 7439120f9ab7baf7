"""Contrastive losses against soft targets (docs/method.md §4)."""

import jax
import jax.numpy as jnp
from jax import lax


def soft_contrastive(logits: jax.Array, i2t_target: jax.Array, t2i_target: jax.Array) -> jax.Array:
    """Return ½ [CE(i2t target, softmax of S~'s rows) + CE(t2i target, softmax of S~ᵀ's rows)].

    Each cross-entropy is a mean over rows.

    Args:
      logits: (B, B) S~, image × text similarities over the temperature; log-softmax runs in float32 or wider.
      i2t_target: (B, B), row k over the texts of image k.
      t2i_target: (B, B), row j over the images of text j.

    Returns:
      A scalar in nats. No gradient flows into the targets.
    """
    images = _cross_entropy(logits, i2t_target)
    texts = _cross_entropy(logits.T, t2i_target)
    return (images + texts) / 2


def symmetric_contrastive(logits: jax.Array) -> jax.Array:
    """Return InfoNCE in both directions, where image k matches only text k, without building a target.

    Args:
      logits: (B, B) image × text similarities over the temperature.

    Returns:
      A scalar in nats.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    partition = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return jnp.mean(partition / 2 - jnp.diagonal(logits))


def sigmoid_contrastive(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Return the binary cross-entropy of all pairs (SigLIP), summed over each row: Σ_j softplus(s_kj) − y_kj·s_kj.

    Args:
      logits: (B, B) image × text similarities over the temperature, plus the bias.
      target: (B, B) y, how far each pair matches, 0 to 1; no gradient flows.

    Returns:
      The mean over rows, a scalar in nats.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    pairs = jax.nn.softplus(logits) - lax.stop_gradient(target) * logits
    return jnp.mean(jnp.sum(pairs, axis=1))


def _cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    log_probabilities = jax.nn.log_softmax(
        logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=1
    )
    return -jnp.mean(jnp.sum(lax.stop_gradient(target) * log_probabilities, axis=1))
