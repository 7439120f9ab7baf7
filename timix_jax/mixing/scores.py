"""How relevant is each patch to the caption: the sources of the scores (docs/method.md §2).

Every function gives (B, N), float32 (float64 for float64 inputs), the higher the more relevant,
row-major over the grid, without a gradient. Learned scores are standardised over the patches of an
image: windows don't depend on that, λ by relevance mass does.
"""

import jax
import jax.numpy as jnp
from jax import lax


def standardise(logp1: jax.Array, eps: float = 1e-6) -> jax.Array:
    """z-score over the last axis with ddof = 1, in the input's type but float32 at least.

    The deviation is taken as eps where it is smaller, so that a constant row gives zeros and not
    NaN (docs/method.md §6, point 9), and every other row its z-score exactly. No gradient flows.
    """
    values = lax.stop_gradient(logp1.astype(jnp.promote_types(logp1.dtype, jnp.float32)))
    if values.shape[-1] == 1:  # no deviation is defined
        return jnp.zeros_like(values)
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred / jnp.maximum(values.std(axis=-1, ddof=1, keepdims=True), eps)


def from_logp(logp: jax.Array) -> jax.Array:
    """Patch predictor: z-score of log p₁ (not of p₁) from its output (B, N, 2) (docs/method.md §1)."""
    return _constant(standardise(logp[..., 1]))


def from_similarity(patch_embeddings: jax.Array, text: jax.Array) -> jax.Array:
    """Cosine of projected patches (B, N, D) and texts (B, D), all of unit norm, standardised."""
    similarity = jnp.einsum(
        "bnd,bd->bn",
        patch_embeddings,
        text,
        precision=lax.Precision.HIGHEST,  # windows that nearly tie are to be the same on every device
        preferred_element_type=jnp.promote_types(text.dtype, jnp.float32),
    )
    return _constant(standardise(similarity))


def from_attention(cls_attention: jax.Array) -> jax.Array:
    """Attention (B, N) of [CLS] to the patches, mean over heads, standardised: SMMix's scores."""
    return _constant(standardise(cls_attention))


def random(key: jax.Array, batch: int, patches: int) -> jax.Array:
    """Independent standard normal scores (batch, patches)."""
    return jax.random.normal(key, (batch, patches), jnp.float32)


def from_boxes(boxes: jax.Array, mask: jax.Array, grid: int) -> jax.Array:
    """Oracle: the share of each patch that the box covering most of it covers, in [0, 1].

    Not standardised, so that whole patches tie exactly. An image without boxes scores 0
    everywhere, and both its windows are the first position.

    Args:
      boxes: (B, M, 4) x0, y0, x1, y1 as fractions of the image.
      mask: (B, M) bool, false for padding.
      grid: patches a side.
    """
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    edges = jnp.arange(grid, dtype=boxes.dtype)

    def covered(first: jax.Array, last: jax.Array) -> jax.Array:
        """(B, M, g): the share of each column (or row) of patches between two coordinates."""
        first, last = first[..., None] * grid, last[..., None] * grid
        return jnp.clip(jnp.minimum(last, edges + 1) - jnp.maximum(first, edges), 0, 1)

    x0, y0, x1, y1 = jnp.moveaxis(boxes, -1, 0)
    columns = covered(x0, x1)
    rows = covered(y0, y1) * mask[..., None]
    share = (rows[..., :, None] * columns[..., None, :]).max(axis=1, initial=0.0)
    return _constant(share.reshape(share.shape[0], grid * grid))


def _constant(scores: jax.Array) -> jax.Array:
    """Without a gradient, float32 at least: windows that nearly tie in float64 are to stay as they are."""
    return lax.stop_gradient(scores).astype(jnp.promote_types(scores.dtype, jnp.float32))
