"""Batches of pixels from a list of images, read while the devices compute."""

from collections.abc import Iterator, Sequence

import numpy as np

from timix_jax.data.images.preprocess import Preprocess
from timix_jax.inference.images import ImageLike, read_or_raise
from timix_jax.inference.read_ahead import map_ahead

_AHEAD = 2  # batches of images that wait for the devices


def pixel_batches(
    images: Sequence[ImageLike], batch_size: int, image_size: int, preprocess: Preprocess
) -> Iterator[np.ndarray]:
    """Yield uint8 (B, S, S, 3), the last one shorter.

    Raises:
      UserError: an image cannot be read; the message names it.
    """

    def read(numbered: tuple[int, ImageLike]) -> np.ndarray:
        number, image = numbered
        return read_or_raise(
            image, image_size, f"image {number} of the list", preprocess=preprocess
        )

    pixels = map_ahead(read, enumerate(images), _AHEAD * batch_size)
    for start in range(0, len(images), batch_size):
        yield np.stack([next(pixels) for _ in range(start, min(start + batch_size, len(images)))])
