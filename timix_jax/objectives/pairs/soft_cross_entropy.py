"""Contrastive losses against soft targets (docs/method.md §4)."""

import jax
import jax.numpy as jnp
from jax import lax


def soft_contrastive(logits: jax.Array, i2t_target: jax.Array, t2i_target: jax.Array) -> jax.Array:
    """½ [CE(i2t target, softmax of S~'s rows) + CE(t2i target, softmax of S~ᵀ's rows)].

    Each cross-entropy is a mean over rows.

    Args:
      logits: (B, B) S~, image × text similarities over the temperature; log-softmax in float32 at
        least.
      i2t_target: (B, B), row k over the texts of image k.
      t2i_target: (B, B), row j over the images of text j.

    Returns:
      Scalar in nats. No gradient flows into the targets.
    """
    images = _cross_entropy(logits, i2t_target)
    texts = _cross_entropy(logits.T, t2i_target)
    return (images + texts) / 2


def symmetric_contrastive(logits: jax.Array) -> jax.Array:
    """InfoNCE in both directions: image k matches text k alone; no dense target is built.

    Args:
      logits: (B, B) image × text similarities over the temperature.

    Returns:
      Scalar in nats.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    partition = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return jnp.mean(partition / 2 - jnp.diagonal(logits))


def sigmoid_contrastive(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Binary cross-entropy of every pair (SigLIP), summed over a row: Σ_j softplus(s_kj) − y_kj·s_kj.

    Args:
      logits: (B, B) image × text similarities over the temperature, plus the bias.
      target: (B, B) y, shares in 0…1 of the pairs that match; no gradient flows.

    Returns:
      Mean over rows, a scalar in nats.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    pairs = jax.nn.softplus(logits) - lax.stop_gradient(target) * logits
    return jnp.mean(jnp.sum(pairs, axis=1))


def _cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    log_probabilities = jax.nn.log_softmax(
        logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=1
    )
    return -jnp.mean(jnp.sum(lax.stop_gradient(target) * log_probabilities, axis=1))
