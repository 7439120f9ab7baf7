"""Patch labels from boxes: which patches a region covers (docs/method.md §2)."""

import jax
import jax.numpy as jnp

BORDER = {"float32": 1e-5, "float64": 1e-10}
"""In patches. A box edge within this distance of a patch border lies on it: a fraction such as 3/7
times the grid comes out a last bit off the whole number, and would label a row it only touches."""


def patch_labels(boxes: jax.Array, grid: int) -> jax.Array:
    """Marks the patches that a box overlaps at all.

    Rows floor(y0·g) ... ceil(y1·g), columns likewise, clamped to the image; at least one patch (the
    nearest), also for an empty box or one outside the image.

    Args:
      boxes: float (..., 4), x0, y0, x1, y1 as fractions of the image.
      grid: g, patches per side.

    Returns:
      bool (..., g·g), row-major.
    """
    if boxes.shape[-1] != 4:
        raise ValueError(f"boxes must be (..., 4): x0, y0, x1, y1; got shape {boxes.shape}")
    corners = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32)) * grid
    border = BORDER[corners.dtype.name]
    first = jnp.clip(jnp.floor(corners[..., :2] + border), 0, grid - 1)
    end = jnp.maximum(jnp.clip(jnp.ceil(corners[..., 2:] - border), 0, grid), first + 1)
    place = jnp.arange(grid, dtype=first.dtype)
    inside = (place >= first[..., None]) & (place < end[..., None])  # (..., 2, g)
    labels = inside[..., 1, :, None] & inside[..., 0, None, :]
    return labels.reshape(*boxes.shape[:-1], grid * grid)
