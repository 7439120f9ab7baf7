"""CLIP-C (arXiv 2407.01408): centre halves of two images side by side, and both captions, as one new pair."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing.base import Mixed, Sample, Space, is_self_partner, lambda_dtype
from timix_jax.mixing.joined import as_one_positive
from timix_jax.mixing.partners import Paired, Pairing


@dataclasses.dataclass(frozen=True)
class ClipC(Paired):
    """[centre half of x_k | centre half of x_π(k)] with the joined captions of both as its one positive.

    No code was published. This is our reading: each half is a crop of the full height and half the width from the
    middle of the image, at its own scale; the own half lies on the left and its caption comes first; the composition
    rate ρ is `mix.fraction`, with `mix.placement="replace"`. It deviates in two points. The captions follow each other
    without the paper's "and", since a mixer sees token ids and no words. A pair of a composite and its partner is not
    compared (`Mixed.apart`), where a plain loss would count it as a negative.

    Attributes:
      partner, within_shard, shards: how rows are paired (`partners.Paired`). By default at random, as in the paper.
    """

    partner: Pairing = "derangement"

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "pixels"
    composes_captions: ClassVar[bool] = True

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Compose (B, H, W, 3) pixels of any dtype and join (B, T) captions."""
        pixels = sample.image
        width = pixels.shape[2]
        partner = self.partners.draw(key, len(pixels), sample.tokens)
        left = width // 2
        # Cropped before the exchange, for which half the pixels suffice.
        other = self.partners.take(_centre(pixels, width - left), partner)
        composite = jnp.concatenate([_centre(pixels, left), other], axis=2)
        whole = is_self_partner(partner)
        lam = jnp.where(whole, 1, jnp.asarray(left / width, lambda_dtype(pixels)))
        image = jnp.where(whole[:, None, None, None], pixels, composite)
        return as_one_positive(Mixed(image, partner, lam), sample, self.partners)


def _centre(pixels: jax.Array, width: int) -> jax.Array:
    """Return the middle columns, (B, H, width, 3)."""
    first = (pixels.shape[2] - width) // 2
    return pixels[:, :, first : first + width]
