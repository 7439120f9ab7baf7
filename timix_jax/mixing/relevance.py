"""Weights of captions by the relevance of the patches that an image shows, instead of by area (docs/method.md §4)."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.errors import UserError
from timix_jax.mixing.base import is_self_partner
from timix_jax.mixing.partners import ANY_PARTNERS, Partners
from timix_jax.mixing.windows import window_mask

LambdaBy = Literal["area", "mass", "visible", "own"]
"""What weighs captions: area, shares of the visible relevance, the visible relevance of each, or the own one alone."""


class Weights(NamedTuple):
    """The captions' weights in each image.

    Attributes:
      lam: (B,) λ, of the row's own caption.
      partner: (B,) of the partner's caption; None for 1 − λ.
    """

    lam: jax.Array
    partner: jax.Array | None = None


def check_lambda_by(name: str) -> None:
    """Raise a UserError unless this is a `LambdaBy`."""
    if name not in get_args(LambdaBy):
        raise UserError(
            f"mixing lambda_by={name!r} is unknown; use 'area', 'mass', 'visible' or 'own'"
        )


def by_relevance(name: LambdaBy) -> bool:
    """Return True for weights that need scores."""
    return name in ("mass", "visible")


def weights_by_area(name: LambdaBy, area: jax.Array) -> Weights:
    """Return the weights by "area", the share (B,) that stays, or of the "own" caption alone."""
    return Weights(area if name == "area" else jnp.ones_like(area))


def relevance_mass(scores: jax.Array) -> jax.Array:
    """Return each patch's share of its image's relevance (B, N), without a gradient.

    Standardised scores may be negative. The mass of a patch is therefore the softmax of the scores over its image,
    which is positive and adds to 1 for any source of scores.
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return jax.nn.softmax(lax.stop_gradient(scores), axis=1)


def visible_mass(
    scores: jax.Array,
    low: jax.Array,
    high: jax.Array,
    partner: jax.Array,
    r: jax.Array | int,
    grid: int,
    partners: Partners = ANY_PARTNERS,
) -> tuple[jax.Array, jax.Array]:
    """Return how much of each caption's relevance an image with a pasted window shows.

    Args:
      scores: (B, N) relevance.
      low, high: (B, 2) int32, each row's overwritten window and the window that it gives to others.
      partner: (B,) int32 π.
      r: int32 (), side of the windows.
      grid: patches per side.
      partners: the rule that made π; the default is correct for any π, and a flip avoids a gather between devices.

    Returns:
      The kept mass of the own caption and the pasted mass of the partner's, each (B,) in [0, 1]; they need not add to
      1. A row that is its own partner has 1 and 0.
    """
    mass = relevance_mass(scores)
    kept = jnp.where(window_mask(low, r, grid), 0, mass).sum(axis=1)
    given = jnp.where(window_mask(high, r, grid), mass, 0).sum(axis=1)
    itself = is_self_partner(partner)
    return jnp.where(itself, 1, kept), jnp.where(itself, 0, partners.take(given, partner))


def share_of_visible(kept: jax.Array, pasted: jax.Array) -> jax.Array:
    """Return λ = kept / (kept + pasted), (B,); 1 where nothing is visible."""
    total = kept + pasted
    return jnp.where(total > 0, kept / jnp.where(total > 0, total, 1), 1)


def relevance_weights(
    by: LambdaBy, kept: jax.Array, pasted: jax.Array, dtype: jnp.dtype
) -> Weights:
    """Return the weights by "mass", which compete and add to 1, or by "visible" mass, which do neither.

    With the sigmoid loss, "visible" says of each caption by itself how much of it the image shows. With softmax it
    also weighs the row by the sum of both.
    """
    if by == "mass":
        return Weights(share_of_visible(kept, pasted).astype(dtype))
    return Weights(kept.astype(dtype), pasted.astype(dtype))
