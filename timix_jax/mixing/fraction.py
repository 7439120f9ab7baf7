"""Mix only a part of the batch (`mix.fraction`)."""

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample


def select_rows(batch: int, fraction: float) -> np.ndarray:
    """Return the indices of the rows to mix, int (n,) with n = round(fraction·batch).

    At least one row unless the fraction is 0. Evenly spaced, so that every device has an equal share; static, so that
    the second forward pass can be shorter.

    Raises:
      UserError: the fraction is not between 0 and 1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise UserError(f"mix.fraction={fraction} must lie between 0 and 1")
    count = min(batch, max(int(fraction > 0), int(np.floor(fraction * batch + 0.5))))
    return np.arange(count) * batch // max(count, 1)


def take_rows(values: jax.Array, rows: np.ndarray) -> jax.Array:
    """Return `values[rows]` for rows from `select_rows`.

    If they are every n-th row, a reshape lets each device take its own rows; the compiler would implement a gather by
    indices as a sum of the whole batch over devices.
    """
    every = len(values) // len(rows)
    if every * len(rows) != len(values):
        return values[rows]
    return values.reshape(len(rows), every, *values.shape[1:])[:, 0]


def keep_clean(mixed: Mixed, sample: Sample, selected: jax.Array) -> Mixed:
    """Restore the rows that are not selected: clean images and captions, λ = 1, each its own partner.

    A list of kept patches has the same length in every row: clean rows get `Mixed.clean_kept`, which selects from the
    mixed image and so decides what they show, or else keep the patches that they would keep if mixed.

    Args:
      mixed: the whole batch mixed.
      sample: the batch before mixing.
      selected: (B,) bool, may be traced; False rows stay clean.
    """

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(selected.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    itself = _own_index(mixed.partner)
    weight = mixed.partner_weight
    if mixed.clean_kept is not None:
        assert mixed.kept is not None
        mixed = mixed._replace(kept=choose(mixed.kept, mixed.clean_kept))
    elif mixed.image is not None:
        mixed = mixed._replace(image=choose(mixed.image, sample.image))
    return mixed._replace(
        tokens=None if mixed.tokens is None else choose(mixed.tokens, _given(sample.tokens)),
        partner=choose(mixed.partner, itself),
        apart=None if mixed.apart is None else choose(mixed.apart, _own_index(mixed.apart)),
        pasted=None if mixed.pasted is None else jnp.where(selected, mixed.pasted, 0),
        pasted_patches=None
        if mixed.pasted_patches is None
        else choose(mixed.pasted_patches, jnp.zeros_like(mixed.pasted_patches)),
        lam=jnp.where(selected, mixed.lam, jnp.ones((), mixed.lam.dtype)),
        partner_weight=None if weight is None else choose(weight, jnp.zeros_like(weight)),
    )


def _own_index(partner: jax.Array) -> jax.Array:
    """Return the row of each entry of π, shaped to broadcast with it."""
    index = jnp.arange(partner.shape[0], dtype=partner.dtype)
    return index.reshape(-1, *[1] * (partner.ndim - 1))


def _given(tokens: jax.Array | None) -> jax.Array:
    if tokens is None:
        raise ValueError(
            "the mixer returned tokens but Sample.tokens is None; give the sample its captions"
        )
    return tokens
