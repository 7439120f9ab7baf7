"""CutMix (arXiv 1905.04899): a box of pixels, at the same place in both images."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing.base import Mixed, Space, alone, check_alpha, draw_beta, lambda_dtype
from timix_jax.mixing.partners import Paired


@dataclasses.dataclass(frozen=True)
class CutMix(Paired):
    """One box a batch: its area drawn from Beta(α, α), its centre uniform, clipped at the edges.

    Attributes:
      alpha: parameter of the Beta distribution.
      partner, within_shard, shards: who is paired with whom (`partners.Paired`).

    Raises:
      UserError: a setting out of range.
    """

    alpha: float = 1.0

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "pixels"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        super().__post_init__()

    def __call__(self, key: jax.Array, inputs: jax.Array, scores: jax.Array | None) -> Mixed:
        """Mix (B, H, W, 3) pixels of any dtype, λ = share that stays; scores are not used."""
        del scores
        batch, height, width, _ = inputs.shape
        share_key, row_key, column_key, partner_key = jax.random.split(key, 4)
        side = jnp.sqrt(1 - draw_beta(share_key, self.alpha, jnp.dtype(jnp.float32)))
        rows = _inside(row_key, height, side)
        columns = _inside(column_key, width, side)
        box = rows[:, None] & columns[None, :]
        partner = self.partners.draw(partner_key, batch)
        others = self.partners.take(inputs, partner)
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
