"""λ ~ Beta(α, α): the law that CutMix and Mixup share, one draw a global batch."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.partners import Paired


@dataclasses.dataclass(frozen=True)
class BetaPaired(Paired):
    """Settings of a mixer that draws its share.

    Attributes:
      alpha: α, parameter of the Beta distribution.
      partner, within_shard, shards: who is paired with whom (`partners.Paired`).

    Raises:
      UserError: a setting out of range.
    """

    alpha: float = 1.0

    needs_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks α too."""
        if not self.alpha > 0:
            raise UserError(f"mixing alpha={self.alpha} must be positive (Beta distribution of λ)")
        super().__post_init__()

    def draw_share(self, key: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """The share that stays of each image, ()."""
        return jax.random.beta(key, self.alpha, self.alpha, dtype=dtype)
