"""Packing: the most relevant patches of two images in one sequence, each at the position it has in its own image."""

import dataclasses
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, is_self_partner, lambda_dtype
from timix_jax.mixing.partners import Paired
from timix_jax.mixing.relevance import relevance_mass, share_of_visible

PackedLambda = Literal["equal", "full", "mass", "visible"]


@dataclasses.dataclass(frozen=True)
class Packing(Paired):
    """K patches of the row and K of its partner, those of the highest scores, as one sequence of 2K.

    One pass reads two images. The tower tells positions apart but not images: two patches may have the same position. A
    row without a partner shows its 2K most relevant patches. The weights of the two captions are, by `lambda_by`,

    * "equal": ½ and ½;
    * "full": 1 and 1, for the sigmoid loss;
    * "visible": the relevance mass that is kept of each, for the sigmoid loss;
    * "mass": the same as shares that add to 1.

    With `mix.captions="joined"` the sequence and both captions joined are one pair instead. It follows the text-aware
    patch dropout of A-CLIP (arXiv 2212.08653); packing two images is this project's.

    Attributes:
      grid: patches per side.
      share: 2K as a share of the N patches.
      lambda_by: what weighs the captions.

    Raises:
      UserError: a setting is out of range.
    """

    grid: int
    share: float = 1.0
    lambda_by: PackedLambda = "equal"

    needs_scores: ClassVar[bool] = True
    space: ClassVar[Space] = "patches"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1 or not self.per_image:
            raise UserError(
                f"mixing share={self.share} of {self.grid**2} patches: use a share up to 1 that leaves two patches"
            )
        if self.lambda_by not in get_args(PackedLambda):
            raise UserError(
                f"mixing lambda_by={self.lambda_by!r} is unknown; use one of {get_args(PackedLambda)}"
            )

    @property
    def per_image(self) -> int:
        """K."""
        return int(self.share * self.grid**2 / 2 + 1e-9)

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Return (B, 2N, C), own patches and partner's, of which `kept` (B, 2K) names those to read."""
        if sample.scores is None:
            raise UserError("packing needs patch scores: set config.mix.score")
        patches, k = sample.image, self.per_image
        batch, count = patches.shape[:2]
        partner = self.partners.draw(key, batch, sample.tokens)
        itself = is_self_partner(partner)
        best = most_relevant(sample.scores, 2 * k)
        packed = jnp.concatenate(
            [best[:, :k], self.partners.take(best[:, :k], partner) + count], axis=1
        )
        kept_mass = jnp.take_along_axis(relevance_mass(sample.scores), best[:, :k], axis=1)
        own, other = self._weights(kept_mass.sum(axis=1), partner)
        dtype = lambda_dtype(patches, sample.scores)
        return Mixed(
            jnp.concatenate([patches, self.partners.take(patches, partner)], axis=1),
            partner,
            jnp.where(itself, 1, own).astype(dtype),
            jnp.where(itself, 0, other).astype(dtype),
            pasted=jnp.where(itself, 0, 0.5).astype(dtype),
            kept=jnp.where(itself[:, None], best, packed),
            clean_kept=best,
        )

    def _weights(self, kept: jax.Array, partner: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the weights of own and partner's captions, given the kept mass (B,) of each image."""
        if self.lambda_by in ("equal", "full"):
            weight = jnp.full_like(kept, 0.5 if self.lambda_by == "equal" else 1.0)
            return weight, weight
        pasted = self.partners.take(kept, partner)
        if self.lambda_by == "visible":
            return kept, pasted
        lam = share_of_visible(kept, pasted)
        return lam, 1 - lam


def most_relevant(scores: jax.Array, count: int) -> jax.Array:
    """Return the patches of the highest scores (B, N), int32 (B, count), best first; of equals the first ones."""
    return jax.lax.top_k(jax.lax.stop_gradient(scores), count)[1].astype(jnp.int32)
