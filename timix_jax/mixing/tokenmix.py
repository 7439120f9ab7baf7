"""TokenMix (arXiv 2207.08409): blocks of patches from the partner, labels by the relevance of what is visible."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, is_self_partner, lambda_dtype
from timix_jax.mixing.beta import BetaPaired
from timix_jax.mixing.relevance import relevance_mass

_BLOCKS = 32  # covers nearly every mask; scattered patches fill what they leave
_RATIO = 0.3  # of a block's sides, at most 1 / 0.3


@dataclasses.dataclass(frozen=True)
class TokenMix(BetaPaired):
    """A mask M of several blocks of patches, at the same places in both images.

    The weights of the captions are y_own = Σ(1−M)·a_own and y_partner = ΣM·a_partner, where a is each patch's share of
    the relevance of its image, and so need not add to 1. In the paper a is a teacher's activation for the
    image's class. Here it is the relevance to the caption, a softmax of the scores; `mix.score="ema:single_patch"`
    takes them from the moving average of the weights.

    Attributes:
      grid: patches per side.
      block: smallest block, as a share of the patches.

    Raises:
      UserError: a setting is out of range.
    """

    block: float = 1 / 14
    grid: int = dataclasses.field(kw_only=True)

    needs_scores: ClassVar[bool] = True
    space: ClassVar[Space] = "patches"

    def __post_init__(self) -> None:
        if not 0 < self.block <= 1:
            raise UserError(
                f"mixing block={self.block}: a share of the patches, use 0 < block <= 1"
            )
        super().__post_init__()

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Draw one mask, of (1−λ)·N patches with λ ~ Beta(α, α), and the partners, then `mix`."""
        share_key, mask_key, partner_key = jax.random.split(key, 3)
        patches = self.grid**2
        share = 1 - self.draw_share(share_key, jnp.dtype(jnp.float32))
        count = jnp.clip(jnp.round(share * patches), 1, patches - 1).astype(jnp.int32)
        mask = block_mask(mask_key, count, self.grid, self.block)
        partner = self.partners.draw(partner_key, len(sample.image), sample.tokens)
        return self.mix(sample, partner, mask)

    def mix(self, sample: Sample, partner: jax.Array, mask: jax.Array) -> Mixed:
        """Mix with given partners (B,) and mask M (N,) bool, True where the partner's patches go."""
        if sample.scores is None:
            raise UserError("TokenMix needs patch scores: set config.mix.score")
        mass = relevance_mass(sample.scores)
        others = self.partners.take(sample.image, partner)
        itself = is_self_partner(partner)
        own = jnp.where(mask, 0, mass).sum(axis=1)
        theirs = jnp.where(mask, self.partners.take(mass, partner), 0).sum(axis=1)
        dtype = lambda_dtype(sample.image, sample.scores)
        return Mixed(
            jnp.where(mask[:, None], others, sample.image),
            partner,
            jnp.where(itself, 1, own).astype(dtype),
            jnp.where(itself, 0, theirs).astype(dtype),
            pasted=jnp.where(itself, 0, mask.mean(dtype=dtype)),
        )


def block_mask(key: jax.Array, count: jax.Array | int, grid: int, smallest: float) -> jax.Array:
    """Draw a mask (N,) bool of exactly `count` patches: rectangles, one after another, the last one cut short.

    A rectangle has at least `smallest`·N patches and at most half of those to be masked, unless that is less; its ratio
    of sides is log-uniform between 0.3 and 1/0.3, and its place uniform among those inside the image.
    """
    patches = grid * grid
    area_key, ratio_key, row_key, column_key, rest_key = jax.random.split(key, 5)
    least = min(smallest * patches, patches)
    most = jnp.maximum(jnp.asarray(count, jnp.float32) / 2, least)
    area = least + (most - least) * jax.random.uniform(area_key, (_BLOCKS,))
    widest = -math.log(_RATIO)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (_BLOCKS,), minval=-widest, maxval=widest))
    index = jnp.arange(grid, dtype=jnp.int32)

    def line(key: jax.Array, length: jax.Array) -> jax.Array:
        """Return (blocks, g) bool: an interval of the given length, rounded, at a uniform place."""
        length = jnp.clip(jnp.round(length), 1, grid).astype(jnp.int32)[:, None]
        place = jax.random.uniform(key, length.shape) * (grid - length + 1)
        first = jnp.minimum(place.astype(jnp.int32), grid - length)
        return (index >= first) & (index < first + length)

    rows, columns = line(row_key, jnp.sqrt(area * ratio)), line(column_key, jnp.sqrt(area / ratio))
    blocks = (rows[:, :, None] & columns[:, None, :]).reshape(_BLOCKS, patches)
    covered = blocks.any(axis=0)
    # Patches in the order of the first block that covers them; at the end, the uncovered ones in random order.
    turn = jnp.where(covered, jnp.argmax(blocks, axis=0), _BLOCKS)
    within = jnp.where(
        covered, jnp.arange(patches) / patches, jax.random.uniform(rest_key, (patches,))
    )
    order = jnp.argsort(turn + within)
    return jnp.zeros(patches, bool).at[order].set(jnp.arange(patches) < count)
