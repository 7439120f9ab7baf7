"""λ ~ Beta(α, α), the distribution that CutMix and Mixup share, drawn once per global batch."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.partners import Paired


@dataclasses.dataclass(frozen=True)
class BetaPaired(Paired):
    """Settings of a mixer that draws λ from a Beta distribution.

    Attributes:
      alpha: α, parameter of the Beta distribution.
      partner, within_shard, shards: how rows are paired (`partners.Paired`).

    Raises:
      UserError: a setting is out of range.
    """

    alpha: float = 1.0

    needs_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check α and the pairing."""
        if not self.alpha > 0:
            raise UserError(f"mixing alpha={self.alpha} must be positive (Beta distribution of λ)")
        super().__post_init__()

    def draw_share(self, key: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Draw the share () of each image that stays."""
        return jax.random.beta(key, self.alpha, self.alpha, dtype=dtype)
