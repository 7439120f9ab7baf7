"""MixGen (arXiv 2206.08358): mean of two images, and both captions one after the other, as one new pair."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, is_self_partner, lambda_dtype
from timix_jax.mixing.joined import as_one_positive
from timix_jax.mixing.partners import ANY_PARTNERS, Partners


@dataclasses.dataclass(frozen=True)
class MixGen:
    """Rows k < n become (λ·x_k + (1−λ)·x_{k+n}, "t_k t_{k+n}"), with n = ⌊share·B⌋; the others stay.

    The target is the identity. The partner rows stay in the batch, so that a pair of a row and its partner is not
    compared (`Mixed.apart`), where the paper counts it as a negative. Captions that do not fit together are cut to
    half each (`joined.join_captions`), where the reference would lose the second. The published setting is
    `mix.placement="replace"` with `mix.fraction=1`: `share` already says how many rows are mixed.

    Attributes:
      share: share of the rows that is mixed. Above ½, where partners are mixed too, they are ⌊B/2⌋ rows apart.
      lam: λ, weight of a row's own pixels.

    Raises:
      UserError: a setting is out of range.
    """

    share: float = 0.25
    lam: float = 0.5

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "pixels"
    partners: ClassVar[Partners] = ANY_PARTNERS
    composes_captions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.share <= 1:
            raise UserError(
                f"mixing share={self.share} is not a share of the batch: use 0 < share <= 1"
            )
        if not 0 < self.lam < 1:
            raise UserError(f"mixing lam={self.lam}: use a weight between 0 and 1")

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix (B, H, W, 3) floating-point pixels and join (B, T) captions; nothing is random."""
        del key
        pixels = sample.image
        batch = len(pixels)
        mixed_rows = max(int(self.share * batch), 1)
        distance = min(mixed_rows, batch // 2)
        row = jnp.arange(batch, dtype=jnp.int32)
        partner = jnp.where(row < mixed_rows, (row + distance) % batch, row)
        dtype = lambda_dtype(pixels)
        lam = jnp.where(is_self_partner(partner), 1, jnp.asarray(self.lam, dtype))
        # A roll moves rows between neighbouring devices, where a gather by indices collects the whole batch.
        others = jnp.roll(pixels, -distance, axis=0)
        own = lam[:, None, None, None]
        image = own * pixels.astype(dtype) + (1 - own) * others.astype(dtype)
        mixed = Mixed(image.astype(pixels.dtype), partner, lam)
        return as_one_positive(mixed, sample, self.partners)
