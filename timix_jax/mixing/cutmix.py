"""CutMix (arXiv 1905.04899): a box of pixels, at the same place in both images."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing.base import Mixed, Space, alone, check_alpha, draw_beta, lambda_dtype
from timix_jax.mixing.partners import Pairing, check_pairing, draw_partners, take_partners


@dataclasses.dataclass(frozen=True)
class CutMix:
    """One box a batch: its area drawn from Beta(α, α), its centre uniform, clipped at the edges.

    Attributes:
      alpha: parameter of the Beta distribution.
      partner: rule of pairing over the global batch.

    Raises:
      UserError: a setting out of range.
    """

    alpha: float = 1.0
    partner: Pairing = "flip"

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "pixels"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_pairing(self.partner)

    def __call__(self, key: jax.Array, inputs: jax.Array, scores: jax.Array | None) -> Mixed:
        """Mix (B, H, W, 3) pixels of any dtype, λ = share that stays; scores are not used."""
        del scores
        batch, height, width, _ = inputs.shape
        share_key, row_key, column_key, partner_key = jax.random.split(key, 4)
        side = jnp.sqrt(1 - draw_beta(share_key, self.alpha, jnp.dtype(jnp.float32)))
        rows = _inside(row_key, height, side)
        columns = _inside(column_key, width, side)
        box = rows[:, None] & columns[None, :]
        partner = draw_partners(self.partner, partner_key, batch)
        others = take_partners(inputs, partner, self.partner)
        dtype = lambda_dtype(inputs)
        lam = 1 - box.sum(dtype=jnp.int32).astype(dtype) / (height * width)
        return Mixed(
            inputs=jnp.where(box[None, :, :, None], others, inputs),
            partner=partner,
            lam=jnp.where(alone(partner), jnp.ones((), dtype), lam),
        )


def _inside(key: jax.Array, size: int, share: jax.Array) -> jax.Array:
    """(size,) bool: ``share``·size elements round a uniform centre, clipped at both ends."""
    index = jnp.arange(size, dtype=jnp.int32)
    length = jnp.floor(share * size).astype(jnp.int32)
    first = jax.random.randint(key, (), 0, size, dtype=jnp.int32) - length // 2
    return (index >= first) & (index < first + length)
