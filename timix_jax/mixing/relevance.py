"""λ from the relevance of the mixed patches to their captions, instead of from area (docs/method.md §4)."""

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.mixing.base import is_self_partner
from timix_jax.mixing.partners import ANY_PARTNERS, Partners
from timix_jax.mixing.windows import window_mask


def relevance_mass_lambda(
    scores: jax.Array,
    low: jax.Array,
    high: jax.Array,
    partner: jax.Array,
    r: jax.Array | int,
    grid: int,
    partners: Partners = ANY_PARTNERS,
) -> jax.Array:
    """Return λ_k = kept mass of the target / (kept mass of the target + pasted mass of the partner).

    Standardised scores may be negative. The mass of a patch is therefore the softmax of the scores over its image,
    which is positive and adds to 1 for any source of scores.

    Args:
      scores: (B, N) relevance.
      low, high: (B, 2) int32, each row's overwritten window and most relevant window.
      partner: (B,) int32 π.
      r: int32 (), side of the windows.
      grid: patches per side.
      partners: the rule that made π; the default is correct for any π, and a flip avoids a gather between devices.

    Returns:
      (B,) in [0, 1]; 1 if the row is its own partner.
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    mass = jax.nn.softmax(lax.stop_gradient(scores), axis=1)
    kept = jnp.where(window_mask(low, r, grid), 0, mass).sum(axis=1)
    best = jnp.where(window_mask(high, r, grid), mass, 0).sum(axis=1)
    pasted = partners.take(best, partner)
    total = kept + pasted
    return jnp.where(
        is_self_partner(partner) | (total <= 0), 1, kept / jnp.where(total > 0, total, 1)
    )
