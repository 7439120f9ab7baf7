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


def put_rows(values: jax.Array, new: jax.Array, rows: np.ndarray) -> jax.Array:
    """Return `values` with `new` in the rows from `select_rows`: what `take_rows` took away."""
    every = len(values) // len(rows)
    if every * len(rows) != len(values):
        return values.at[rows].set(new, unique_indices=True)
    blocks = values.reshape(len(rows), every, *values.shape[1:])
    return jnp.concatenate([new[:, None], blocks[:, 1:]], axis=1).reshape(values.shape)


def in_place(mixed: Mixed, batch: Sample, rows: np.ndarray) -> Mixed:
    """Return a mixed part of the batch within the whole batch, whose other rows are clean as in `keep_clean`.

    Its partners are correct under `partners.ANY_PARTNERS`.

    Args:
      mixed: n rows, mixed with each other.
      batch: the whole batch (B) before mixing.
      rows: (n,) their places, from `select_rows`.

    Raises:
      UserError: the mixer keeps lists of patches, which clean rows have not.
    """
    if mixed.kept is not None:
        raise UserError(
            "mix.placement='among' cannot mix a part of the batch whose images keep fewer patches; use 'replace'"
        )
    count = len(batch.image)

    def put(values: jax.Array, clean: jax.Array | None) -> jax.Array:
        return put_rows(_given(clean), values, rows)

    def index(partner: jax.Array) -> jax.Array:
        """Return rows of the part as rows of the batch; clean rows are their own partners."""
        shape = (count, *partner.shape[1:])
        own = jnp.broadcast_to(_own_index(jnp.zeros(shape, jnp.int32)), shape)
        return put(jnp.asarray(rows, jnp.int32)[partner], own)

    def zeros(values: jax.Array) -> jax.Array:
        return put(values, jnp.zeros((count, *values.shape[1:]), values.dtype))

    m = mixed
    return m._replace(
        image=None if m.image is None else put(m.image, batch.image),
        tokens=None if m.tokens is None else put(m.tokens, batch.tokens),
        partner=index(m.partner),
        apart=None if m.apart is None else index(m.apart),
        lam=put(m.lam, jnp.ones(count, m.lam.dtype)),
        partner_weight=None if m.partner_weight is None else zeros(m.partner_weight),
        pasted=None if m.pasted is None else zeros(m.pasted),
        pasted_patches=None if m.pasted_patches is None else zeros(m.pasted_patches),
        low=None,
        high=None,
    )


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


def _given(values: jax.Array | None) -> jax.Array:
    if values is None:
        raise ValueError(
            "the mixer returned tokens but Sample.tokens is None; give the sample its captions"
        )
    return values
