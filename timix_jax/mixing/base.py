"""What a mixer takes and gives."""

import functools
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from timix_jax.mixing.partners import Partners

Space = Literal["patches", "pixels"]


class Mixed(NamedTuple):
    """A mixed batch.

    Attributes:
      inputs: patch tokens (B, N, C) or pixels (B, H, W, 3), the dtype of what was given.
      partner: (B,) int32, π: row k took content from row π(k); π(k) = k means that the row is
        unmixed.
      lam: (B,) float32 (float64 for float64 inputs or scores), λ: the weight of the row's own caption.
      low: (B, 2) int32, row and column (in patches) of the window that was overwritten, or None.
      high: (B, 2) int32, each row's own best window; `high[partner]` is what was pasted; or None.
      window: int32 (), the side of the windows in patches, or None.
    """

    inputs: jax.Array
    partner: jax.Array
    lam: jax.Array
    low: jax.Array | None = None
    high: jax.Array | None = None
    window: jax.Array | None = None


class Mixer(Protocol):
    """A pure function of a key and a batch; implemented by frozen dataclasses of settings."""

    @property
    def needs_scores(self) -> bool:
        """Whether `scores` (B, N) must be given."""

    @property
    def space(self) -> Space:
        """What it mixes: "patches" (outputs of the patch convolution, (B, N, C)) or "pixels" ((B,
        H, W, 3)).
        """

    @property
    def partners(self) -> Partners:
        """The rule that makes `Mixed.partner`, by which the loss exchanges values between partners.

        `partners.ANY_PARTNERS` is right for any π.
        """

    def __call__(self, key: jax.Array, inputs: jax.Array, scores: jax.Array | None) -> Mixed:
        """Mix the global batch; `scores` (B, N): the higher, the more relevant to the caption."""


def lambda_dtype(*inputs: jax.Array) -> jnp.dtype:
    """Type of λ: float32; float64 where an input is, or for integers where JAX is set to it."""
    floating = [x.dtype for x in inputs if jnp.issubdtype(x.dtype, jnp.floating)]
    return functools.reduce(jnp.promote_types, floating or [jnp.result_type(float)], jnp.float32)


def area_lambda(r: jax.Array | int, grid: int, partner: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """λ = 1 − r²/g², (B,), the share that stays (docs/method.md §3); 1 where a row is its own partner."""
    pasted = jnp.square(jnp.asarray(r, dtype) / grid)
    return jnp.where(alone(partner), jnp.ones((), dtype), 1 - pasted)


def pasted_window(low: jax.Array, high_of_partner: jax.Array, partner: jax.Array) -> jax.Array:
    """The window to paste from, (B, 2).

    A row that is its own partner copies its low window onto itself, so that it stays whole.
    """
    return jnp.where(alone(partner)[:, None], low, high_of_partner)


def alone(partner: jax.Array) -> jax.Array:
    """(B,) bool: the rows that are their own partner, which stay whole with λ = 1."""
    return partner == jnp.arange(partner.shape[0], dtype=partner.dtype)
