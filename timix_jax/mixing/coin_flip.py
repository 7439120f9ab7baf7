"""Coin-flipping mixup (ZeroVL, arXiv 2112.09331): a coin decides which side of a batch is mixed."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, is_self_partner, lambda_dtype
from timix_jax.mixing.beta import BetaPaired


@dataclasses.dataclass(frozen=True)
class CoinFlip(BetaPaired):
    """Heads: λ·x + (1−λ)·x[π] of the pixels. Tails: the same of the projected captions, before their L2 norm.

    One coin and one λ ~ Beta(α, α) per batch; the targets are λ and 1−λ over the other side. With the paper's α = 0.1
    most λ are near 0 or 1.

    Attributes:
      p: probability of heads.
      alpha: α, parameter of the Beta distribution.
      partner, within_shard, shards: how rows are paired (`partners.Paired`).

    Raises:
      UserError: a setting is out of range.
    """

    p: float = 0.5
    alpha: float = 0.1

    space: ClassVar[Space] = "pixels"

    def __post_init__(self) -> None:
        """Check the probability, α and the pairing."""
        if not 0 <= self.p <= 1:
            raise UserError(f"mixing p={self.p} is not a probability: use 0 to 1")
        super().__post_init__()

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Toss the coin, and mix (B, H, W, 3) floating-point pixels if it shows heads."""
        pixels = sample.image
        coin_key, weight_key, partner_key = jax.random.split(key, 3)
        dtype = lambda_dtype(pixels)
        heads = jax.random.bernoulli(coin_key, self.p)
        share = self.draw_share(weight_key, dtype)
        partner = self.partners.draw(partner_key, len(pixels), sample.tokens)
        lam = jnp.where(is_self_partner(partner), jnp.ones((), dtype), share)
        weight = jnp.where(heads, lam, 1)
        own, others = weight[:, None, None, None], self.partners.take(pixels, partner)
        image = own * pixels.astype(dtype) + (1 - own) * others.astype(dtype)
        return Mixed(image.astype(pixels.dtype), partner, lam, by_caption=~heads, pasted=1 - weight)

    def mix_text(self, mixed: Mixed, text: jax.Array) -> jax.Array:
        """Mix projected captions (B, D) if the coin shows tails."""
        assert mixed.by_caption is not None
        own = jnp.where(mixed.by_caption, mixed.lam, 1)[:, None]
        return own * text + (1 - own) * self.partners.take(text, mixed.partner)
