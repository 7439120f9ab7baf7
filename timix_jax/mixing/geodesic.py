"""Geodesic multi-modal mixup, m²-Mix (arXiv 2203.03897): points between image and caption as hard negatives."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing.base import Mixed, Sample, Space, lambda_dtype
from timix_jax.mixing.partners import ANY_PARTNERS, Partners

# Within this of ±1 the cosine counts as constant: there θ has no gradient, and sin θ vanishes.
MARGIN = 1e-5


@dataclasses.dataclass(frozen=True)
class Geodesic:
    """InfoNCE in which the negatives of image k and of caption k are slerp(image j, caption j; λ), j ≠ k.

    The positive is the pair itself, and all candidates share one temperature τ₂. This is an addition to the plain
    loss (`mix.placement="extra"`); the paper gives it weights of 0.001 to 0.05 (`mix.weight`).

    Attributes:
      alpha: α of λ ~ Beta(α, α), one draw per batch.
      temperature: τ₂, a constant.

    Raises:
      UserError: a setting is out of range.
    """

    alpha: float = 0.5
    temperature: float = 0.07

    needs_scores: ClassVar[bool] = False
    space: ClassVar[Space] = "none"
    partners: ClassVar[Partners] = ANY_PARTNERS

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.alpha > 0:
            raise UserError(f"mixing alpha={self.alpha} must be positive (Beta distribution of λ)")
        if not self.temperature > 0:
            raise UserError(f"mixing temperature={self.temperature} must be positive")

    def __call__(self, key: jax.Array, sample: Sample) -> Mixed:
        """Draw λ; inputs do not change, and each row is its own partner."""
        batch, dtype = len(sample.image), lambda_dtype(sample.image)
        share = jax.random.beta(key, self.alpha, self.alpha, dtype=dtype)
        return Mixed(
            image=None,
            partner=jnp.arange(batch, dtype=jnp.int32),
            lam=jnp.broadcast_to(share, (batch,)),
            pasted=jnp.zeros(batch, dtype),
        )

    def mix_negatives(self, mixed: Mixed, image: jax.Array, text: jax.Array) -> jax.Array:
        """Return points (B, D) on the geodesics from captions (λ = 0) to images (λ = 1)."""
        return slerp(image, text, mixed.lam)


def slerp(a: jax.Array, b: jax.Array, lam: jax.Array) -> jax.Array:
    """Return sin(λθ)/sin θ·a + sin((1−λ)θ)/sin θ·b with cos θ = a·b, row by row.

    Finite, with finite gradients, also where a and b coincide, oppose each other, or are rounded to |a·b| > 1.

    Args:
      a, b: (B, D) of unit norm.
      lam: (B,) λ in 0..1.

    Returns:
      (B, D), of unit norm unless a and b nearly oppose each other.
    """
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    a, b = a.astype(dtype), b.astype(dtype)
    cosine = jnp.clip(jnp.sum(a * b, axis=1, keepdims=True), -1 + MARGIN, 1 - MARGIN)
    angle = jnp.arccos(cosine)
    own = lam.astype(dtype)[:, None]
    return (jnp.sin(own * angle) * a + jnp.sin((1 - own) * angle) * b) / jnp.sin(angle)
