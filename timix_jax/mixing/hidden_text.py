"""Mixup of the final text state (Mixup-Transformer, arXiv 2010.02394); images stay."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, is_self_partner, lambda_dtype
from timix_jax.mixing.partners import Paired


@dataclasses.dataclass(frozen=True)
class HiddenText(Paired):
    """λ·h + (1−λ)·h[π] of the captions' final states h, with the targets λ and 1−λ over the images.

    h is mixed before the L2 norm. A projection without bias maps the mixed states to the mixed projections, so that
    the projections are what is mixed. λ is a constant, to which the paper finds results insensitive between 0.1 and
    0.9.

    Attributes:
      lam: λ, weight of a row's own caption; 0 gives each image its partner's caption, 1 the plain loss.
      partner, within_shard, shards: how rows are paired (`partners.Paired`).

    Raises:
      UserError: a setting is out of range.
    """

    lam: float = 0.5

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "none"

    def __post_init__(self) -> None:
        """Check λ and the pairing."""
        if not 0 <= self.lam <= 1:
            raise UserError(f"mixing lam={self.lam}: a weight, use 0 to 1")
        super().__post_init__()

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Draw the partners of the captions."""
        batch = len(sample.image)
        partner = self.partners.draw(key, batch, sample.tokens)
        dtype = lambda_dtype(sample.image)
        lam = jnp.where(is_self_partner(partner), 1, jnp.asarray(self.lam, dtype))
        return Mixed(
            image=None,
            partner=partner,
            lam=lam,
            by_caption=jnp.asarray(True),
            pasted=jnp.zeros(batch, dtype),
        )

    def mix_text(self, mixed: Mixed, text: jax.Array) -> jax.Array:
        """Mix projected captions (B, D)."""
        own = mixed.lam[:, None]
        return own * text + (1 - own) * self.partners.take(text, mixed.partner)
