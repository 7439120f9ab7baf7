"""From an example as found to a record that is known to be usable."""

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from timix_jax.data.images.decode import decode_image
from timix_jax.data.prepare.regions import clean_regions
from timix_jax.data.prepare.tasks import Problem, RawExample, replace_lone_surrogates, tidy
from timix_jax.data.records.schema import CorruptExample, Record

_FORMATS = ("JPEG", "PNG", "WEBP")
_JPEG_QUALITY = 95
_ORIENTATION = 0x0112  # EXIF tag; 1 = upright


class Cleaned(NamedTuple):
    """A record, or None, with the size (width, height) of its image and what was left out."""

    record: Record | None
    size: tuple[int, int] = (0, 0)
    reencoded: bool = False
    problems: tuple[Problem, ...] = ()


def clean(example: RawExample, max_size: int | None) -> Cleaned:
    """Check an example: decode the whole image, tidy its texts, clip its boxes.

    An image is re-encoded (JPEG, quality 95) if its longer side exceeds `max_size`, if it is not
    JPEG, PNG or WebP, or if its EXIF data rotate it and it has no regions, since readers ignore
    that tag and boxes are in pixels as stored. Otherwise its bytes are kept.

    Args:
      example: the example as read by a format.
      max_size: longest side of a stored image in pixels; None: unlimited.
    """
    key = replace_lone_surrogates(example.key)
    captions = [tidy(caption) for caption in example.captions]
    kept = tuple(filter(None, captions))
    problems = [Problem("empty caption", key, skipped=False)] * (len(captions) - len(kept))
    if not kept:
        detail = "all of them are empty" if captions else "none given"
        return Cleaned(None, problems=(*problems, Problem("no caption", key, detail)))
    try:
        pixels = decode_image(example.image, key)
        with Image.open(io.BytesIO(example.image)) as header:
            known_format = header.format in _FORMATS
            rotated = header.getexif().get(_ORIENTATION, 1) != 1 and not example.regions
    except CorruptExample as error:
        return Cleaned(None, problems=(*problems, Problem("corrupt image", key, error.reason)))
    except Exception as error:  # parsers of damaged EXIF data may raise anything
        return Cleaned(None, problems=(*problems, Problem("corrupt image", key, repr(error))))
    height, width = pixels.shape[:2]
    too_large = max_size is not None and max(height, width) > max_size
    image = example.image
    if rotated or too_large or not known_format:
        image, pixels = _reencode(example.image, pixels, max_size if too_large else None, rotated)
    stored = (pixels.shape[1], pixels.shape[0])
    scale = (stored[0] / width, stored[1] / height)
    regions, dropped = clean_regions(key, example.regions, (width, height), scale)
    record = Record(key, image, kept, regions)
    return Cleaned(record, stored, image is not example.image, (*problems, *dropped))


def _reencode(
    data: bytes, pixels: np.ndarray, max_size: int | None, rotated: bool
) -> tuple[bytes, np.ndarray]:
    """Return JPEG bytes and pixels, uint8 (H, W, 3), rotated upright and shrunk as requested."""
    if rotated:
        with Image.open(io.BytesIO(data)) as image:
            orientation = image.getexif()[_ORIENTATION]
        pixels = _rotate_upright(pixels, orientation)
    if max_size is not None:
        height, width = pixels.shape[:2]
        factor = max_size / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue(), pixels


def _rotate_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate (H, W, 3) pixels upright, given the EXIF orientation 1 to 8; others are ignored."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
