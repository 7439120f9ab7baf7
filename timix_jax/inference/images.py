"""Images in any form a user has them, as the pixels that the image tower reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from PIL import Image

from timix_jax.data.images.decode import decode_image
from timix_jax.data.images.preprocess import Preprocess
from timix_jax.data.images.to_rgb import to_rgb
from timix_jax.data.records.schema import CorruptExample
from timix_jax.errors import UserError
from timix_jax.runtime.remote import as_path

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
"""A path (also gs://), the bytes of an image file, a Pillow image, or uint8 (H, W, 3) RGB pixels."""

OWN = Preprocess()


def image_list(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Return the images as a list; one image is a list of one, and (N, H, W, 3) is N images."""
    one = isinstance(images, (str, os.PathLike, bytes, Image.Image))
    if one or (isinstance(images, np.ndarray) and images.ndim != 4):
        return [images]  # type: ignore[list-item]
    return list(images)  # type: ignore[arg-type]


def read_pixels(
    image: ImageLike, size: int, name: str = "image", *, preprocess: Preprocess = OWN
) -> np.ndarray:
    """Decode and resize an image.

    Args:
      image: see `ImageLike`.
      size: side S in pixels.
      name: names an image without a path in the error.
      preprocess: by default as training and evaluation do: whole, without keeping its aspect ratio.

    Returns:
      uint8 (S, S, 3).

    Raises:
      CorruptExample: a path cannot be read, or the image is damaged.
      UserError: an array that is not uint8 (H, W, 3).
    """
    if isinstance(image, np.ndarray):
        return preprocess(_checked(image, name), size)
    if isinstance(image, Image.Image):
        return preprocess(_converted(image, name), size)
    if isinstance(image, bytes):
        data = image
    else:
        name = os.fspath(image)
        try:
            data = as_path(image).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a name no file can have
            if isinstance(error, UserError):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CorruptExample(name, f"cannot be read: {reason}") from error
    smallest = size if preprocess.reads_reduced else 0
    return preprocess(decode_image(data, name, min_height=smallest, min_width=smallest), size)


def read_or_raise(
    image: ImageLike, size: int, name: str, *, preprocess: Preprocess = OWN
) -> np.ndarray:
    """Return `read_pixels(...)`; an unreadable image is a UserError."""
    try:
        return read_pixels(image, size, name, preprocess=preprocess)
    except CorruptExample as error:
        raise UserError(
            f"{error}; leave it out, or use python -m timix_jax.embed, which skips and lists such files"
        ) from error


def _checked(image: np.ndarray, name: str) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"{name} is an array {image.dtype} {image.shape}: give uint8 (H, W, 3), RGB from 0 to 255"
        )
    return np.ascontiguousarray(image)


def _converted(image: Image.Image, name: str) -> np.ndarray:
    try:
        return to_rgb(image)
    except (
        Exception
    ) as error:  # Pillow reads the file now, and passes on any exception of its parsers
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptExample(name, f"cannot be decoded: {reason}") from error
