"""Targets of the mixed batch: what softmax(S~) and softmax(S~ᵀ) should be (docs/method.md §4).

Each function returns (i2t, t2i), both (B, B) with rows that add to one: i2t[k, j] is the share of
caption j in mixed image k, t2i[j, k] the share of mixed image k for caption j. λ may differ by row
and π may be any map, so the columns of a text's row need not add up by themselves: they are
renormalised, which changes nothing for one λ and an involution. A caption that no image carries at
all (λ = 0 and nobody's partner) has a row of zeros: it asks nothing.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.errors import UserError

Targets = tuple[jax.Array, jax.Array]
TargetName = Literal["hard", "pred", "pred_shared", "blend"]


def hard(lam: jax.Array, partner: jax.Array, label_smoothing: float = 0.0) -> Targets:
    """i2t = λ·I + (1−λ)·I[π], t2i its transpose.

    Args:
      lam: (B,) λ, weight of the row's own caption.
      partner: (B,) int32 π.
      label_smoothing: ε of (1−ε)·target + ε/B.
    """
    batch = lam.shape[0]
    column = jnp.arange(batch, dtype=partner.dtype)
    own = (column[:, None] == column[None, :]).astype(lam.dtype)
    other = (partner[:, None] == column[None, :]).astype(lam.dtype)
    i2t = _mix(lam[:, None], own, other)
    return _smooth(i2t, label_smoothing), _smooth(_renormalise(i2t.T), label_smoothing)


def pred(lam: jax.Array, partner: jax.Array, logits: jax.Array) -> Targets:
    """The unmixed batch's predictions, mixed: λ·U + (1−λ)·U[π] and λ·Q + (1−λ)·Q[:, π].

    Args:
      lam: (B,) λ.
      partner: (B,) int32 π.
      logits: (B, B) S, image × text similarities over the temperature of the unmixed batch; no
        gradient flows.
    """
    images = jax.nn.softmax(lax.stop_gradient(logits), axis=1)
    texts = jax.nn.softmax(lax.stop_gradient(logits).T, axis=1)
    i2t = _mix(lam[:, None], images, images[partner])
    return i2t, _renormalise(_mix(lam[None, :], texts, texts[:, partner]))


def pred_shared(lam: jax.Array, partner: jax.Array, logits: jax.Array) -> Targets:
    """`pred` with the image's target both ways, as the released code (docs/method.md §6, point 8)."""
    images = jax.nn.softmax(lax.stop_gradient(logits), axis=1)
    i2t = _mix(lam[:, None], images, images[partner])
    return i2t, i2t


def blend(
    lam: jax.Array,
    partner: jax.Array,
    logits: jax.Array,
    beta: float | jax.Array,
    label_smoothing: float = 0.0,
) -> Targets:
    """β·hard + (1−β)·pred."""
    i2t, t2i = (
        _mix(beta, given, predicted)
        for given, predicted in zip(
            hard(lam, partner, label_smoothing), pred(lam, partner, logits), strict=True
        )
    )
    return i2t, t2i


def mixed_targets(
    name: TargetName,
    lam: jax.Array,
    partner: jax.Array,
    logits: jax.Array,
    *,
    beta: float | jax.Array = 0.5,
    label_smoothing: float = 0.0,
) -> Targets:
    """The targets called `name`; β is blend's, label smoothing belongs to the hard part.

    Raises:
      UserError: an unknown name.
    """
    match name:
        case "hard":
            return hard(lam, partner, label_smoothing)
        case "pred":
            return pred(lam, partner, logits)
        case "pred_shared":
            return pred_shared(lam, partner, logits)
        case "blend":
            return blend(lam, partner, logits, beta, label_smoothing)
    raise UserError(f"mixing target {name!r} is unknown; use one of {get_args(TargetName)}")


def sigmoid_target(
    name: TargetName,
    lam: jax.Array,
    partner: jax.Array,
    logits: jax.Array,
    *,
    beta: float | jax.Array = 0.5,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """The sigmoid loss's one target, (B, B): the image's, predictions being σ(S) a pair.

    Rows of predictions don't add to one. With one target, "pred_shared" is "pred".

    Raises:
      UserError: an unknown name.
    """
    given = hard(lam, partner, label_smoothing)[0]
    pairs = jax.nn.sigmoid(lax.stop_gradient(logits))
    predicted = _mix(lam[:, None], pairs, pairs[partner])
    match name:
        case "hard":
            return given
        case "pred" | "pred_shared":
            return predicted
        case "blend":
            return _mix(beta, given, predicted)
    raise UserError(f"mixing target {name!r} is unknown; use one of {get_args(TargetName)}")


def _mix(weight: jax.Array | float, own: jax.Array, other: jax.Array) -> jax.Array:
    return weight * own + (1 - weight) * other


def _renormalise(rows: jax.Array) -> jax.Array:
    total = rows.sum(axis=1, keepdims=True)
    return rows / jnp.where(total > 0, total, 1)


def _smooth(rows: jax.Array, amount: float) -> jax.Array:
    return (1 - amount) * rows + amount / rows.shape[1] if amount else rows
