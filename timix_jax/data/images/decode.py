"""Decoding of image files to uint8 RGB pixels.

JPEG goes through libjpeg-turbo, which can decode straight to a smaller size, and everything else
through Pillow. Transparency is composited on white. EXIF orientation is ignored, since boxes are in
pixels of the stored image.
"""

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from timix_jax.data.records.schema import CorruptExample

_JPEG_MAGIC = b"\xff\xd8\xff"
_MAX_PIXELS = (
    2 * 89_478_485
)  # Pillow's hard limit, against forged headers that would fill the memory
_RGB_COLORSPACES = (
    "YCbCr",
    "RGB",
    "Gray",
)  # Pillow handles CMYK, which libjpeg-turbo cannot convert


def image_size(data: bytes, key: str = "image") -> tuple[int, int]:
    """Return height and width in pixels of an encoded image, read from its header.

    Raises:
      CorruptExample: the header cannot be read; the error names `key`.
    """
    if data.startswith(_JPEG_MAGIC):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return height, width
        except ValueError:
            pass  # an unusual JPEG: let Pillow decide
    image = _open(data, key)
    return image.height, image.width


def decode_image(
    data: bytes, key: str = "image", *, min_height: int = 0, min_width: int = 0
) -> np.ndarray:
    """Decode an image.

    Args:
      data: a JPEG, PNG, WebP or other file that Pillow reads.
      key: names the image in the error.
      min_height: together with `min_width`, allows decoding a JPEG at 1/2, 1/4 or 1/8 of its size as
        long as the result has at least this many rows and columns. 0: full size.
      min_width: see `min_height`.

    Returns:
      uint8 (H, W, 3) RGB.

    Raises:
      CorruptExample: the bytes are truncated, damaged or not an image.
    """
    if data.startswith(_JPEG_MAGIC):
        pixels = _decode_jpeg(data, key, min_height, min_width)
        if pixels is not None:
            return pixels
    image = _open(data, key)
    try:
        return np.asarray(_to_rgb(image), np.uint8)
    except Exception as error:  # Pillow's plugins pass on any exception of their parsers
        raise CorruptExample(key, f"cannot be decoded: {_one_line(error)}") from error


def _decode_jpeg(data: bytes, key: str, min_height: int, min_width: int) -> np.ndarray | None:
    """Return RGB pixels, or None for a kind of JPEG that libjpeg-turbo cannot convert to RGB."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if height * width > _MAX_PIXELS:
        raise CorruptExample(key, f"{width}x{height} pixels, above the limit of {_MAX_PIXELS}")
    if colorspace not in _RGB_COLORSPACES:
        return None
    # Only powers of two have a fast inverse DCT. Without both bounds the size is kept.
    scaled = (
        {"min_height": min_height, "min_width": min_width, "min_factor": 2}
        if min_height > 0 and min_width > 0
        else {}
    )
    try:
        return simplejpeg.decode_jpeg(data, **scaled)
    except ValueError as error:
        raise CorruptExample(key, f"cannot be decoded: {_one_line(error)}") from error


def _open(data: bytes, key: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Large photographs are legitimate; Pillow still raises an error beyond twice its limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise CorruptExample(key, f"{len(data)} bytes of no known image format") from error
    except Exception as error:  # see decode_image
        raise CorruptExample(key, f"not a readable image: {_one_line(error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's conversion clips instead of scaling
        return Image.fromarray((_sixteen_bits(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    """Return integers (H, W) from 0 to 65535. Raises ValueError for 32-bit values of unknown range."""
    values = np.asarray(image)
    if image.mode == "I" and image.format != "PPM":  # Pillow scales PPM files to 16 bits
        low, high = int(values.min()), int(values.max())
        # Values up to 255 may be 8-bit ones in wide storage, which the shift would turn black.
        if low < 0 or not 255 < high <= 0xFFFF:
            raise ValueError(f"32-bit grey values of {low} to {high}, not plainly 8 or 16 bits")
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
