"""TransMix (arXiv 2111.09833): CutMix whose labels say how much the image tower attends to the box."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, is_self_partner
from timix_jax.mixing.cutmix import CutMix


@dataclasses.dataclass(frozen=True)
class TransMix(CutMix):
    """CutMix with the partner's weight w = (1 − s)·area + s·a_in / (a_in + a_out).

    a is the attention of [CLS] to the patches of the mixed image itself in the last block, a_in its sum inside the box.
    A patch that the box covers in part counts in part. No gradient flows through the labels. The attention comes from
    the pass that trains, so that the labels cost next to nothing; with patch dropout it takes a pass of its own.

    Attributes:
      grid: patches per side.
      attention_share: s; 1 in the paper (§3.2), ½ in the released code, whose results are the published ones.

    Raises:
      UserError: a setting is out of range.
    """

    attention_share: float = 0.5
    grid: int = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.attention_share <= 1:
            raise UserError(f"attention_share={self.attention_share}: a share, use 0 to 1")
        super().__post_init__()

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Mix (B, H, W, 3) pixels; λ is the area until `relabel`."""
        mixed = super().__call__(key, sample)
        batch, side = sample.image.shape[:2]
        patch = side // self.grid
        box = self.draw_box(key, side, side).astype(mixed.lam.dtype)
        covered = box.reshape(self.grid, patch, self.grid, patch).mean(axis=(1, 3)).reshape(1, -1)
        covered = jnp.where(is_self_partner(mixed.partner)[:, None], 0, covered)
        return mixed._replace(
            pasted=1 - mixed.lam, pasted_patches=jnp.broadcast_to(covered, (batch, self.grid**2))
        )

    def relabel(self, mixed: Mixed, attention: jax.Array) -> Mixed:
        """Return the batch with w as the partner's weight, and λ = 1 − w.

        Args:
          mixed: a batch of this mixer, in which some rows may have been restored.
          attention: (B, N) ≥ 0, of [CLS] to the patches of each mixed image.
        """
        covered = mixed.pasted_patches
        assert covered is not None
        attention = lax.stop_gradient(attention).astype(covered.dtype)
        inside, total = jnp.sum(attention * covered, axis=1), jnp.sum(attention, axis=1)
        area = covered.mean(axis=1)
        attended = jnp.where(total > 0, inside / jnp.where(total > 0, total, 1), area)
        weight = (1 - self.attention_share) * area + self.attention_share * attended
        return mixed._replace(lam=(1 - weight).astype(mixed.lam.dtype))
