"""Conversion of opened images of any mode to 8-bit RGB."""

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_STATED_RANGE = ("PPM", "JPEG2000")  # Pillow scales their grey values to 16 bits
_SIXTEEN_BITS = 0xFFFF
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return uint8 (H, W, 3) RGB pixels; transparency is composited on white.

    Wider values are scaled to 8 bits if their range is plain: the format states it, or the highest
    value lies in the upper three quarters of 16 bits (of 12 if a TIFF says so; for floats also of
    0–1 or 0–255), or all are 0. Otherwise, 12-bit values stored in 16 bits would turn nearly black.

    Args:
      image: an image as opened, not loaded yet.

    Raises:
      ValueError: the range of the values is unknown.
    """
    tiles = image.tile if isinstance(image, ImageFile) else []
    raw_mode = str(tiles[0].args) if tiles else ""
    transparency = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        grey = _to_eight_bits(image, values)
        if transparency is not None:
            grey[values == transparency] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if isinstance(transparency, int) and image.mode == "L" and raw_mode[:2] == "L;":
        image.info["transparency"] = transparency * (255 // (2 ** int(raw_mode[2]) - 1))
    if ";16" in raw_mode and image.mode in ("RGB", "RGBA", "RGBX"):
        if isinstance(transparency, tuple):
            image.info["transparency"] = tuple(value >> 8 for value in transparency)
        _check_upper_bytes(image)
    return np.asarray(_compose(image), np.uint8)


def _compose(image: Image.Image) -> Image.Image:
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image, values: np.ndarray) -> np.ndarray:
    limit = _highest_possible(image, values)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0:
        values = limit - values  # 0 is white, which Pillow heeds for 8 bits only
    if image.mode == "F":
        return (values * (255 / limit)).astype(np.uint8)
    return (values >> (limit.bit_length() - 8)).astype(np.uint8)


def _highest_possible(image: Image.Image, values: np.ndarray) -> int:
    """Return the value that stands for white (or black)."""
    if image.format in _STATED_RANGE and image.mode != "F":
        return _SIXTEEN_BITS
    limits: tuple[int, ...] = (_SIXTEEN_BITS,)
    if image.mode == "F":
        limits = (1, 0xFF, _SIXTEEN_BITS)
    elif isinstance(image, TiffImageFile) and image.tag_v2.get(_BITS_PER_SAMPLE) == (12,):
        limits = (0xFFF,)
    low, high = values.min().item(), values.max().item()  # NaN if there are any
    for limit in limits:
        if low >= 0 and limit / 4 <= high <= limit:
            return limit
    if low == high == 0:
        return _SIXTEEN_BITS
    kind = "float" if image.mode == "F" else f"{8 * values.itemsize}-bit"
    plainly = "0 to 1, 255 or 65535" if image.mode == "F" else "8 or 16 bits"
    raise ValueError(
        f"{kind} grey values of {low:.10g} to {high:.10g}, not plainly {plainly}; convert them to 8 bits"
    )


def _check_upper_bytes(image: Image.Image) -> None:
    """Check the upper bytes of 16-bit colors, which are all that Pillow keeps."""
    highest = int(np.asarray(image)[..., :3].max())
    if highest < 64:
        raise ValueError(
            f"16-bit color values of at most {highest << 8 | 255}, not plainly 16 bits; convert them to 8 bits"
        )
