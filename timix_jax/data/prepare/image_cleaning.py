"""From an image file as found to the bytes that a record stores."""

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from timix_jax.data.images.decode import decode_image, image_orientation
from timix_jax.data.images.orientation import UPRIGHT, rotate_upright

_KEPT = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")  # starts of JPEG, PNG and WebP files
_JPEG_QUALITY = 95


class CleanedImage(NamedTuple):
    """Bytes to store, with width and height in pixels of the input image and of the stored one."""

    data: bytes
    input_size: tuple[int, int]
    size: tuple[int, int]


def clean_image(data: bytes, key: str, max_size: int | None, upright: bool) -> CleanedImage:
    """Check an image by decoding it, and re-encode it (JPEG, quality 95) where that is needed.

    Args:
      data: the file.
      key: names the image in the error.
      max_size: longest side of a stored image in pixels; None: unlimited.
      upright: re-encode an image that its EXIF data rotate; otherwise it stays as stored.

    Raises:
      CorruptExample: the image cannot be decoded.
    """
    pixels = decode_image(data, key)
    height, width = pixels.shape[:2]
    orientation = image_orientation(data) if upright else UPRIGHT
    too_large = max_size is not None and max(height, width) > max_size
    if data.startswith(_KEPT) and orientation == UPRIGHT and not too_large:
        return CleanedImage(data, (width, height), (width, height))
    pixels = rotate_upright(pixels, orientation)
    if max_size is not None and too_large:
        pixels = _shrink(pixels, max_size)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    return CleanedImage(file.getvalue(), (width, height), (pixels.shape[1], pixels.shape[0]))


def _shrink(pixels: np.ndarray, max_size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = max_size / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
