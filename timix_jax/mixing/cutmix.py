"""CutMix (arXiv 1905.04899): a box of pixels, at the same place in both images."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing.base import Mixed, Sample, Space, is_self_partner, lambda_dtype
from timix_jax.mixing.beta import BetaPaired


@dataclasses.dataclass(frozen=True)
class CutMix(BetaPaired):
    """One box per batch: area from Beta(α, α), uniform centre, clipped at the edges."""

    space: ClassVar[Space] = "pixels"

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix (B, H, W, 3) pixels of any dtype, where λ is the share that stays; ignore scores."""
        inputs = sample.image
        batch, height, width, _ = inputs.shape
        box = self.draw_box(key, height, width)
        partner = self.partners.draw(jax.random.split(key, 4)[3], batch, sample.tokens)
        others = self.partners.take(inputs, partner)
        dtype = lambda_dtype(inputs)
        lam = 1 - box.sum(dtype=jnp.int32).astype(dtype) / (height * width)
        return Mixed(
            image=jnp.where(box[None, :, :, None], others, inputs),
            partner=partner,
            lam=jnp.where(is_self_partner(partner), jnp.ones((), dtype), lam),
        )

    def draw_box(self, key: jax.Array, height: int, width: int) -> jax.Array:
        """Return the box that `__call__` pastes with this key, (H, W) bool."""
        share_key, row_key, column_key, _ = jax.random.split(key, 4)
        side = jnp.sqrt(1 - self.draw_share(share_key, jnp.dtype(jnp.float32)))
        rows = _inside(row_key, height, side)
        columns = _inside(column_key, width, side)
        return rows[:, None] & columns[None, :]


def _inside(key: jax.Array, size: int, share: jax.Array) -> jax.Array:
    """Return (size,) bool: True for `share`·size elements around a uniform centre, clipped at both ends."""
    index = jnp.arange(size, dtype=jnp.int32)
    length = jnp.floor(share * size).astype(jnp.int32)
    first = jax.random.randint(key, (), 0, size, dtype=jnp.int32) - length // 2
    return (index >= first) & (index < first + length)
