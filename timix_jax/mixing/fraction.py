"""Mixing only a part of the batch (`mix.fraction`)."""

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed


def select_rows(batch: int, fraction: float) -> np.ndarray:
    """Indices of the rows to mix, int (n,), n = round(fraction·batch).

    At least one row unless the fraction is 0. Evenly spaced, so that every device has an equal
    share of them; static, so that a shorter second forward pass is possible.

    Raises:
      UserError: a fraction outside 0…1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise UserError(f"mix.fraction={fraction} must lie between 0 and 1")
    count = min(batch, max(int(fraction > 0), int(np.floor(fraction * batch + 0.5))))
    return np.arange(count) * batch // max(count, 1)


def take_rows(values: jax.Array, rows: np.ndarray) -> jax.Array:
    """`values[rows]` for rows of `select_rows`.

    Where they are every n-th row, it is written so that each device takes its own; a gather by
    indices would make the compiler sum the whole batch over the devices.
    """
    every = len(values) // len(rows)
    if every * len(rows) != len(values):
        return values[rows]
    return values.reshape(len(rows), every, *values.shape[1:])[:, 0]


def keep_clean(mixed: Mixed, clean_inputs: jax.Array, selected: jax.Array) -> Mixed:
    """Put the unselected rows back: clean inputs, λ = 1, each its own partner.

    Args:
      mixed: the whole batch mixed.
      clean_inputs: (B, …) as `mixed.inputs`.
      selected: (B,) bool, may be traced; False rows stay clean.
    """
    shape = (-1,) + (1,) * (mixed.inputs.ndim - 1)
    itself = jnp.arange(mixed.partner.shape[0], dtype=mixed.partner.dtype)
    return mixed._replace(
        inputs=jnp.where(selected.reshape(shape), mixed.inputs, clean_inputs),
        partner=jnp.where(selected, mixed.partner, itself),
        lam=jnp.where(selected, mixed.lam, jnp.ones((), mixed.lam.dtype)),
    )
