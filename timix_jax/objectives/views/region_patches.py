"""Annotated regions as single patches: each is cut out, shrunk to the size of a patch and passed through the stem."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from timix_jax.models.pixels import normalise_pixels
from timix_jax.models.protocols import ImageTextModel

Array = jax.Array


def crop_regions(images: Array, boxes: Array, side: int) -> Array:
    """Cut out boxes and resize each to a square; a pixel of the square is the mean of the area that it covers.

    Args:
      images: uint8 or float in -1..1, (P, H, W, 3).
      boxes: float (P, R, 4), x0, y0, x1, y1 as fractions of the image; an empty one gives zeros.
      side: of the square, in pixels.

    Returns:
      float (P, R, side, side, 3) in -1..1.
    """
    pixels = normalise_pixels(images)
    height, width = images.shape[1:3]
    rows = _shares(boxes[..., 1], boxes[..., 3], side, height)
    columns = _shares(boxes[..., 0], boxes[..., 2], side, width)
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("prih,phwc,prjw->prijc", rows, pixels, columns, precision=exact)


def _shares(low: Array, high: Array, cells: int, pixels: int) -> Array:
    """Return the share of each pixel in each of `cells` equal parts of `low` to `high`, (..., cells, pixels)."""
    steps = jnp.arange(cells + 1, dtype=low.dtype) / cells
    edges = (low[..., None] + (high - low)[..., None] * steps) * pixels
    pixel = jnp.arange(pixels, dtype=low.dtype)
    first = jnp.maximum(edges[..., :-1, None], pixel)
    last = jnp.minimum(edges[..., 1:, None], pixel + 1)
    covered = jnp.maximum(last - first, 0)
    whole = covered.sum(axis=-1, keepdims=True)
    return covered / jnp.where(whole > 0, whole, 1)


def embed_regions(model: ImageTextModel, params: Any, images: Array, boxes: Array) -> Array:
    """Return the stem's patch of each region, (P·R, C).

    A patch depends on its own pixels only, so that the regions of an image may be patches of the same sheet: a picture
    of the size that the stem expects, from left to right and from top to bottom.

    Args:
      model: the model.
      params: its parameters.
      images: uint8 (P, H, H, 3), annotated images.
      boxes: float32 (P, R, 4).
    """
    grid, (count, regions) = model.grid, boxes.shape[:2]
    side = images.shape[1] // grid
    sheets = math.ceil(regions / grid**2)
    crops = crop_regions(images, boxes, side)
    missing = sheets * grid**2 - regions
    crops = jnp.pad(crops, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))
    tiles = crops.reshape(count * sheets, grid, grid, side, side, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = model.embed_patches(params, tiles.reshape(-1, grid * side, grid * side, 3))
    width = patches.shape[-1]
    return patches.reshape(count, -1, width)[:, :regions].reshape(-1, width)
