"""A control: images stay whole, so that `mix.captions="joined"` mixes captions and nothing else."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing.base import Mixed, Sample, Space, lambda_dtype
from timix_jax.mixing.partners import Paired


@dataclasses.dataclass(frozen=True)
class CaptionsAlone(Paired):
    """Rows have partners, and images show nothing of them.

    With joined captions, an image is told to show what it does not: what remains of a gain by mixing is not due to the
    images.

    Attributes:
      partner, within_shard, shards: how rows are paired (`partners.Paired`).
    """

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "patches"

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Return (B, N, C) patches as they are, with λ = 1."""
        partner = self.partners.draw(key, len(sample.image), sample.tokens)
        lam = jnp.ones(len(sample.image), lambda_dtype(sample.image))
        return Mixed(sample.image, partner, lam, pasted=jnp.zeros_like(lam))
