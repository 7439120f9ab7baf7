"""Scores of how relevant each patch is to the caption (docs/method.md §2).

Every function returns (B, N), float32 (float64 for float64 inputs), higher for more relevant patches, row-major over
the grid, without a gradient. Learned scores are standardised over the patches of an image, which does not change the
windows but does change λ from relevance mass.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def standardise(logp1: jax.Array, eps: float = 1e-6) -> jax.Array:
    """Return the z-score over the last axis with ddof = 1, in the input's dtype but at least float32.

    The standard deviation is at least eps, so that a constant row gives zeros instead of NaN (docs/method.md §6,
    point 9); other rows get their exact z-score. No gradient flows.
    """
    values = lax.stop_gradient(logp1.astype(jnp.promote_types(logp1.dtype, jnp.float32)))
    if values.shape[-1] == 1:  # its deviation is undefined
        return jnp.zeros_like(values)
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred / jnp.maximum(values.std(axis=-1, ddof=1, keepdims=True), eps)


def from_logp(logp: jax.Array) -> jax.Array:
    """Return the z-score of log p₁ (not of p₁) from the patch predictor's output (B, N, 2) (docs/method.md §1)."""
    return _constant(standardise(logp[..., 1]))


def from_similarity(patch_embeddings: jax.Array, text: jax.Array) -> jax.Array:
    """Return the standardised products of patches (B, N, D) and texts (B, D): cosines if both have unit norm."""
    similarity = jnp.einsum(
        "bnd,bd->bn",
        patch_embeddings,
        text,
        precision=lax.Precision.HIGHEST,  # the same windows on every device, even if they nearly tie
        preferred_element_type=jnp.promote_types(text.dtype, jnp.float32),
    )
    return _constant(standardise(similarity))


def smoothed(scores: jax.Array, grid: int, neighbour: float) -> jax.Array:
    """Return weighted means of each patch and its up to 8 neighbours, (B, N): things are larger than a patch.

    Args:
      scores: (B, N), row-major over the grid.
      grid: patches per side, N = grid².
      neighbour: weight of the next patch in a row or column, relative to the patch itself; its square for diagonals.
    """
    line = np.eye(grid) + neighbour * (np.eye(grid, k=1) + np.eye(grid, k=-1))
    line /= line.sum(axis=1, keepdims=True)
    square = scores.reshape(-1, grid, grid)
    means = jnp.asarray(line, scores.dtype)
    precision = lax.Precision.HIGHEST  # the same windows on every device, even if they nearly tie
    return jnp.einsum("ij,bjk,lk->bil", means, square, means, precision=precision).reshape(
        scores.shape
    )


def centred(text: jax.Array, mean: jax.Array | None = None) -> jax.Array:
    """Subtract the mean caption (D,), by default that of the batch, from the captions (B, D), in float32 or wider.

    What all captions have in common, such as their being captions, is similar to the same patches in every image.
    """
    text = text.astype(jnp.promote_types(text.dtype, jnp.float32))
    return text - (text.mean(axis=0) if mean is None else mean)


def from_attention(cls_attention: jax.Array) -> jax.Array:
    """Standardise the attention (B, N) of [CLS] to the patches, the scores of SMMix."""
    return _constant(standardise(cls_attention))


def random(key: jax.Array, batch: int, patches: int) -> jax.Array:
    """Draw independent standard normal scores (batch, patches)."""
    return jax.random.normal(key, (batch, patches), jnp.float32)


def from_boxes(boxes: jax.Array, mask: jax.Array, grid: int) -> jax.Array:
    """Return the share of each patch, in [0, 1], that its best-covering box covers: the oracle.

    Not standardised, so that fully covered patches tie exactly. An image without boxes scores 0 everywhere, and both
    its windows are at the first position.

    Args:
      boxes: (B, M, 4) x0, y0, x1, y1 as fractions of the image.
      mask: (B, M) bool, False for padding.
      grid: patches per side.
    """
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    edges = jnp.arange(grid, dtype=boxes.dtype)

    def covered(first: jax.Array, last: jax.Array) -> jax.Array:
        """Return the share (B, M, g) of each column (or row) of patches between two coordinates."""
        first, last = first[..., None] * grid, last[..., None] * grid
        return jnp.clip(jnp.minimum(last, edges + 1) - jnp.maximum(first, edges), 0, 1)

    x0, y0, x1, y1 = jnp.moveaxis(boxes, -1, 0)
    columns = covered(x0, x1)
    rows = covered(y0, y1) * mask[..., None]
    share = (rows[..., :, None] * columns[..., None, :]).max(axis=1, initial=0.0)
    return _constant(share.reshape(share.shape[0], grid * grid))


def _constant(scores: jax.Array) -> jax.Array:
    """Stop the gradient and widen to float32; float64 stays, as rounding could change windows that nearly tie."""
    return lax.stop_gradient(scores).astype(jnp.promote_types(scores.dtype, jnp.float32))
