"""Text-aware patch dropout (A-CLIP, arXiv 2212.08653): the image tower reads only the most relevant patches."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, lambda_dtype
from timix_jax.mixing.packing import most_relevant
from timix_jax.mixing.partners import ANY_PARTNERS, Partners


@dataclasses.dataclass(frozen=True)
class RelevantPatches:
    """Keeps the K = round(N·(1 − rate)) patches of the highest scores; image and caption stay a pair.

    A-CLIP ranks patches by the attention of [CLS] in the moving average of the model,
    `mix.score="ema:attention"`. Patches at random are FLIP's (arXiv 2212.00794), `model.image.patch_dropout`; rows that
    stay clean (`mix.fraction`) keep as many at random. After `mix.until` the tower reads all patches, as FLIP ends.

    Attributes:
      grid: patches per side.
      rate: share of the patches that is left out.

    Raises:
      UserError: the rate is out of range.
    """

    grid: int
    rate: float = 0.5

    needs_scores: ClassVar[bool] = True
    space: ClassVar[Space] = "patches"
    partners: ClassVar[Partners] = ANY_PARTNERS

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise UserError(
                f"mixing rate={self.rate} is not a share of patches to leave out: use 0 <= rate < 1"
            )

    @property
    def count(self) -> int:
        """K, at least one."""
        return max(1, round(self.grid**2 * (1 - self.rate)))

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Return the kept patches (B, K); images do not change."""
        if sample.scores is None:
            raise UserError("relevant_patches needs patch scores: set config.mix.score")
        batch = len(sample.image)
        random = jax.random.uniform(key, sample.scores.shape)
        return Mixed(
            None,
            jnp.arange(batch, dtype=jnp.int32),
            jnp.ones(batch, lambda_dtype(sample.image)),
            kept=most_relevant(sample.scores, self.count),
            clean_kept=most_relevant(random, self.count),
        )
