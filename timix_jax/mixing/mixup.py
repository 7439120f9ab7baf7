"""Mixup (arXiv 1710.09412): a weighted mean of whole images."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing.base import Mixed, Space, alone, check_alpha, draw_beta, lambda_dtype
from timix_jax.mixing.partners import Paired


@dataclasses.dataclass(frozen=True)
class Mixup(Paired):
    """λ·x + (1−λ)·x[π] with one λ ~ Beta(α, α) a batch.

    Patch tokens are mixed: the patch convolution is affine and the weights add to one, so this
    equals mixing pixels.

    Attributes:
      alpha: parameter of the Beta distribution.
      partner, within_shard, shards: who is paired with whom (`partners.Paired`).

    Raises:
      UserError: a setting out of range.
    """

    alpha: float = 1.0

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "patches"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        super().__post_init__()

    def __call__(self, key: jax.Array, inputs: jax.Array, scores: jax.Array | None) -> Mixed:
        """Mix (B, N, C) floating-point patches; scores are not used."""
        del scores
        batch = inputs.shape[0]
        weight_key, partner_key = jax.random.split(key)
        dtype = lambda_dtype(inputs)
        weight = draw_beta(weight_key, self.alpha, dtype)
        partner = self.partners.draw(partner_key, batch)
        lam = jnp.where(alone(partner), jnp.ones((), dtype), weight)
        others = self.partners.take(inputs, partner)
        own = lam.reshape(-1, *[1] * (inputs.ndim - 1))
        mixed = own * inputs.astype(dtype) + (1 - own) * others.astype(dtype)
        return Mixed(inputs=mixed.astype(inputs.dtype), partner=partner, lam=lam)
