"""Decoding of image files to uint8 RGB pixels.

JPEG goes through libjpeg-turbo, which can decode straight to a smaller size, and everything else
through Pillow. Transparency is composited on white. EXIF orientation is ignored, since boxes are in
pixels of the stored image.
"""

import io
import re
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from timix_jax.data.images import jpeg
from timix_jax.data.images.jpeg_segments import strip_jpeg
from timix_jax.data.images.orientation import UPRIGHT, read_orientation, undo_rotation
from timix_jax.data.images.png import PNG_MAGIC, check_png, strip_png
from timix_jax.data.images.to_rgb import to_rgb
from timix_jax.data.records.schema import CorruptExample

# Named, since Pillow also opens formats that start a program, such as Ghostscript for EPS, which no
# downloaded file may do. All of these are decoded in this process. JPEG includes MPO.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "TGA",
    "PCX", "SGI", "DDS",
)  # fmt: skip
_MAX_PIXELS = (
    2 * 89_478_485
)  # Pillow's hard limit, against forged headers that would fill the memory
_RGB_COLORSPACES = ("YCbCr", "RGB", "Gray")
_IMAGE_WIDTH, _IMAGE_LENGTH = 256, 257  # TIFF tags

T = TypeVar("T")


def image_size(data: bytes, key: str = "image") -> tuple[int, int]:
    """Return height and width in pixels of an encoded image, read from its header.

    Raises:
      CorruptExample: the header cannot be read; the error names `key`.
    """
    if jpeg.is_jpeg(data):
        try:
            return jpeg.jpeg_header(data)[:2]
        except ValueError:
            pass  # an unusual JPEG: let Pillow decide
    return _read(data, key, _stored_size)


def image_orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1 (upright) to 8, of an encoded image; 1 if it cannot be read."""
    try:
        return _read(data, "", read_orientation)
    except CorruptExample:
        return UPRIGHT


def decode_image(
    data: bytes, key: str = "image", *, min_height: int = 0, min_width: int = 0
) -> np.ndarray:
    """Decode an image.

    Args:
      data: a file of one of `FORMATS`; of several frames, the first counts.
      key: names the image in the error.
      min_height: together with `min_width`, allows decoding a JPEG at 1/2, 1/4 or 1/8 of its size as
        long as the result has at least this many rows and columns. 0: full size.
      min_width: see `min_height`.

    Returns:
      uint8 (H, W, 3) RGB.

    Raises:
      CorruptExample: the bytes are truncated, damaged or not an image of a supported format.
    """
    if jpeg.is_jpeg(data):
        return _decode_jpeg(data, key, min_height, min_width)
    if data.startswith(PNG_MAGIC):
        try:
            check_png(data)
        except ValueError as error:
            raise CorruptExample(key, f"cannot be decoded: {error}") from error
    return _read(data, key, _stored_pixels)


def _decode_jpeg(data: bytes, key: str, min_height: int, min_width: int) -> np.ndarray:
    try:
        height, width, colorspace = jpeg.jpeg_header(data)
    except ValueError:
        return _decode_unusual_jpeg(data, key)
    if height * width > _MAX_PIXELS:
        raise CorruptExample(key, f"{width}x{height} pixels, above the limit of {_MAX_PIXELS}")
    try:
        if colorspace in _RGB_COLORSPACES:
            return jpeg.decode_jpeg(data, min_height=min_height, min_width=min_width)
        if colorspace in jpeg.CMYK:  # Pillow converts it, but does not notice a scan cut short
            jpeg.decode_jpeg(data, "CMYK")
    except ValueError as error:
        raise CorruptExample(key, f"cannot be decoded: {_one_line(error)}") from error
    return _read(data, key, _stored_pixels)


def _decode_unusual_jpeg(data: bytes, key: str) -> np.ndarray:
    """Decode a kind of JPEG that simplejpeg does not know, through Pillow."""
    pixels = _read(data, key, _stored_pixels)
    try:
        longer = jpeg.lengthen_scan(data)
    except ValueError as error:
        raise CorruptExample(key, f"cannot be decoded: {_one_line(error)}") from error
    if not np.array_equal(pixels, _read(longer, key, _stored_pixels)):
        raise CorruptExample(key, "cannot be decoded: a scan is cut short")
    return pixels


def _read(data: bytes, key: str, read: Callable[[Image.Image], T]) -> T:
    """Return what `read` returns for the image opened by Pillow, despite damaged metadata."""
    with warnings.catch_warnings():
        # Of large photographs, which are legitimate up to `_MAX_PIXELS`, and of damaged files, which
        # either decode or raise an error.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            return _read_unchanged(data, key, read)
        except CorruptExample as error:
            stripped = _without_metadata(data)
            if stripped is None:
                raise
            try:
                return _read_unchanged(stripped, key, read)
            except CorruptExample:
                raise error from None


def _read_unchanged(data: bytes, key: str, read: Callable[[Image.Image], T]) -> T:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise CorruptExample(key, f"{len(data)} bytes of no supported format ({known})") from error
    except Exception as error:  # Pillow's plugins pass on any exception of their parsers
        raise CorruptExample(key, f"not a readable image: {_one_line(error)}") from error
    try:
        with image:
            return read(image)
    except Exception as error:  # see above
        raise CorruptExample(key, f"cannot be decoded: {_one_line(error)}") from error


def _without_metadata(data: bytes) -> bytes | None:
    try:
        if jpeg.is_jpeg(data):
            return strip_jpeg(data)
        return strip_png(data) if data.startswith(PNG_MAGIC) else None
    except ValueError:
        return None


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImageFile):  # Pillow gives the size after rotating it
        return image.tag_v2[_IMAGE_LENGTH], image.tag_v2[_IMAGE_WIDTH]
    return image.height, image.width


def _stored_pixels(image: Image.Image) -> np.ndarray:
    # Pillow rotates TIFF files upright as it loads them, and no other format.
    orientation = read_orientation(image) if isinstance(image, TiffImageFile) else UPRIGHT
    return undo_rotation(to_rgb(image), orientation)


def _one_line(error: Exception) -> str:
    """Return the error's text without memory addresses, which differ from run to run."""
    text = re.sub(r"(?: object)? at 0x[0-9a-fA-F]+", "", str(error))
    return " ".join(text.split()) or type(error).__name__
