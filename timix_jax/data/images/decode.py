"""Encoded image bytes to uint8 RGB pixels.

JPEG goes through libjpeg-turbo, which can decode straight to a smaller picture; everything else
through Pillow. Transparency is composited on white. EXIF orientation is ignored: boxes are in
pixels of the stored image.
"""

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from timix_jax.data.records.schema import CorruptExample

_JPEG_MAGIC = b"\xff\xd8\xff"
_MAX_PIXELS = 2 * 89_478_485  # what Pillow refuses; a forged header must not take all memory either
_RGB_COLORSPACES = ("YCbCr", "RGB", "Gray")  # libjpeg-turbo converts no CMYK: Pillow does


def image_size(data: bytes, key: str = "image") -> tuple[int, int]:
    """Height and width in pixels of an encoded image, read from its header.

    Raises:
      CorruptExample: `key` has no readable header.
    """
    if data.startswith(_JPEG_MAGIC):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return height, width
        except ValueError:
            pass  # an unusual JPEG: Pillow decides
    image = _open(data, key)
    return image.height, image.width


def decode_image(
    data: bytes, key: str = "image", *, min_height: int = 0, min_width: int = 0
) -> np.ndarray:
    """Decodes an image.

    Args:
      data: an encoded JPEG, PNG, WebP or other file that Pillow reads.
      key: names the image in the error.
      min_height: with `min_width`, allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, as
        long as the result has at least these many rows and columns. 0: full size.
      min_width: see `min_height`.

    Returns:
      uint8 (H, W, 3) RGB.

    Raises:
      CorruptExample: the bytes are truncated, damaged or no image.
    """
    if data.startswith(_JPEG_MAGIC):
        pixels = _decode_jpeg(data, key, min_height, min_width)
        if pixels is not None:
            return pixels
    image = _open(data, key)
    try:
        return np.asarray(_to_rgb(image), np.uint8)
    except Exception as error:  # Pillow's plugins raise whatever their format's parser raises
        raise CorruptExample(key, f"cannot be decoded: {_one_line(error)}") from error


def _decode_jpeg(data: bytes, key: str, min_height: int, min_width: int) -> np.ndarray | None:
    """RGB pixels, or None for a kind of JPEG that libjpeg-turbo does not turn into RGB."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if height * width > _MAX_PIXELS:
        raise CorruptExample(key, f"{width}x{height} pixels, above the limit of {_MAX_PIXELS}")
    if colorspace not in _RGB_COLORSPACES:
        return None
    # Only powers of two have a fast inverse DCT; unasked, the size stays.
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
            # A large photograph is no attack; Pillow still refuses twice its limit as an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise CorruptExample(key, f"{len(data)} bytes that are no known image format") from error
    except Exception as error:  # see decode_image
        raise CorruptExample(key, f"no readable image: {_one_line(error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        return Image.fromarray((_sixteen_bits(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    """Integers (H, W) of 0 to 65535. Raises ValueError for 32-bit values of which no one says their range."""
    values = np.asarray(image)
    if image.mode == "I" and image.format != "PPM":  # Pillow scales PPM's to 16 bits
        low, high = int(values.min()), int(values.max())
        # Up to 255 they may be bytes stored wide, which the shift would turn into black.
        if low < 0 or not 255 < high <= 0xFFFF:
            raise ValueError(f"32-bit grey values of {low} to {high}, not plainly 8 or 16 bits")
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
