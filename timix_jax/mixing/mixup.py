"""Mixup (arXiv 1710.09412): a weighted mean of whole images."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing.base import Mixed, Sample, Space, is_self_partner, lambda_dtype
from timix_jax.mixing.beta import BetaPaired


@dataclasses.dataclass(frozen=True)
class Mixup(BetaPaired):
    """λ·x + (1−λ)·x[π] with one λ ~ Beta(α, α) per batch.

    It mixes pixels, because only a linear stem maps the mean of two patches to the mean of their embeddings.
    """

    space: ClassVar[Space] = "pixels"

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix (B, H, W, 3) floating-point pixels; ignore scores."""
        inputs = sample.image
        batch = inputs.shape[0]
        weight_key, partner_key = jax.random.split(key)
        dtype = lambda_dtype(inputs)
        weight = self.draw_share(weight_key, dtype)
        partner = self.partners.draw(partner_key, batch, sample.tokens)
        lam = jnp.where(is_self_partner(partner), jnp.ones((), dtype), weight)
        others = self.partners.take(inputs, partner)
        own = lam.reshape(-1, *[1] * (inputs.ndim - 1))
        mixed = own * inputs.astype(dtype) + (1 - own) * others.astype(dtype)
        return Mixed(image=mixed.astype(inputs.dtype), partner=partner, lam=lam)
